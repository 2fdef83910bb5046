// A reading session: what a reader notes of the answers to a question. Nothing of it changes a grade.

import { get, post } from "./api.js";
import { counted } from "./words.js";

const NONE = { verdict: null, note: "" };
/** What stands behind the tree in a canonical line. */
const LIMITS = /(; (top|P|split|seen|unseen|count)\b[^;()]*)+$/;

export class ReadingSession {
  /** list: of the cards. queue: tells how many of them are unmarked, and has a button that moves to the next one. */
  constructor(list, queue) {
    this.list = list;
    this.queue = queue;
    [this.said, this.next] = queue.children;
    [this.reader, this.line, this.at, this.problem] = ["", "", "", ""];
    /** SPLIT/STUDY -> the verdict and the note that are kept. */
    this.marks = new Map();
    /** Reader, line and study -> the text of its field while it is not kept. */
    this.drafts = new Map();
    /** SPLIT/STUDY -> shows what is kept of it in its card. */
    this.rows = new Map();
    /** Requests wait for one another, so that an earlier one cannot replace what a later one says. */
    this.last = Promise.resolve();
    list.addEventListener("focusin", ({ target }) => { this.at = target.closest("[data-study]")?.dataset.study ?? ""; });
    this.next.addEventListener("click", () => this.unmarked()[0]?.querySelector(".head button").focus());
  }

  /** Whether answers can be marked: there is a reader, and a question of graded sites. */
  get isOpen() { return Boolean(this.reader && this.line); }

  /** Turn to a question; what its reader kept of it is loaded. Its limits do not matter. */
  turnTo(reader, limitedLine) {
    const line = limitedLine.replace(LIMITS, "");
    const isOther = reader !== this.reader || line !== this.line;
    if (isOther) {
      [this.reader, this.line, this.at, this.problem] = [reader, line, "", ""];
      this.marks = new Map();
      this.rows.clear();
    }
    const { marks } = this;
    if (this.isOpen && (isOther || this.problem)) this.inTurn(() => this.load(marks));
  }

  inTurn(act) { this.last = this.last.then(act); }

  async load(marks) {
    if (marks !== this.marks) return;
    let [notes, problem] = [[], ""];
    try {
      notes = await get("notes", { reader: this.reader, line: this.line });
    } catch (error) {
      problem = `The notes cannot be loaded: ${error.message}`;
    }
    if (marks !== this.marks) return;
    for (const { split, study_id, verdict, note } of notes) marks.set(`${split}/${study_id}`, { verdict, note });
    this.problem = problem;
    for (const draw of this.rows.values()) draw();
    this.count();
  }

  /** The cards that are shown and unmarked, from the one after that which last had the focus. */
  unmarked() {
    const cards = [...this.list.children];
    const start = cards.findIndex((card) => card.dataset.study === this.at) + 1;
    return [...cards.slice(start), ...cards.slice(0, start)].filter((card) => !this.marks.get(card.dataset.study)?.verdict);
  }

  /** Tell how many of the answers that are shown are unmarked. */
  count() {
    const [left, all] = [this.unmarked().length, this.list.childElementCount];
    this.queue.hidden = !this.isOpen || !all;
    this.said.textContent = this.problem || `${left} of ${counted(all, "answer")} unmarked`;
    this.next.disabled = !left;
  }

  /** The buttons and the note of an answer. */
  row(answer) {
    const study = `${answer.split}/${answer.study_id}`;
    const [row, note, said] = ["div", "input", "span"].map((name) => document.createElement(name));
    row.className = "verdicts";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", `verdict on study ${answer.study_id}`);
    note.placeholder = "note";
    note.maxLength = 1000;
    note.setAttribute("aria-label", `note on study ${answer.study_id}`);
    said.className = "small";
    said.setAttribute("role", "status");
    const buttons = ["agree", "disagree", "unsure"].map((verdict) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: verdict });
      button.addEventListener("click", () => this.keep(answer, verdict, note.value));
      return button;
    });
    const draft = this.draftOf(study);
    const draw = (error = "") => {
      const kept = this.marks.get(study) ?? NONE;
      const text = this.drafts.get(draft) ?? kept.note;
      if (note.value !== text) note.value = text;
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === kept.verdict));
      const notKept = kept.verdict ? "not kept" : "not kept: choose a verdict";
      said.textContent = error ? `not kept: ${error}` : text !== kept.note ? notKept : kept.verdict ? "kept" : "";
    };
    note.addEventListener("input", () => { this.drafts.set(draft, note.value); draw(); });
    note.addEventListener("change", () => this.keep(answer, null, note.value));
    this.rows.set(study, draw);
    draw();
    row.append(...buttons, note, said);
    return row;
  }

  draftOf(study) { return `${this.reader} ${this.line} ${study}`; }

  /** Keep a note, and a verdict, which is the one that is kept if none is given; the card tells whether it is kept. */
  keep({ split, study_id }, given, note) {
    const { reader, line, marks } = this;
    const study = `${split}/${study_id}`;
    const draft = this.draftOf(study);
    this.inTurn(async () => {
      const verdict = given ?? marks.get(study)?.verdict;
      if (!verdict) return;
      let problem = "";
      try {
        await post("notes", { reader, line, split, study_id, verdict, note });
        marks.set(study, { verdict, note });
        if (this.drafts.get(draft) === note) this.drafts.delete(draft);
      } catch (error) {
        problem = error.message;
      }
      if (marks !== this.marks) return;
      this.rows.get(study)?.(problem);
      this.count();
    });
  }
}
