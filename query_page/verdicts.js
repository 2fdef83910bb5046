// A reading session: what a reader notes of an answer. Nothing of it changes a grade.

import { post } from "./api.js";

/** The buttons and the note of one answer to the question of a canonical line. */
export function verdicts(line, answer, reader) {
  const row = document.createElement("div");
  row.className = "verdicts";
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", `verdict on study ${answer.study_id}`);
  const note = document.createElement("input");
  note.placeholder = "note";
  note.maxLength = 1000;
  note.setAttribute("aria-label", `note on study ${answer.study_id}`);
  const said = document.createElement("span");
  said.className = "small";
  said.setAttribute("role", "status");
  const buttons = ["agree", "disagree", "unsure"].map((verdict) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = verdict;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", async () => {
      try {
        await post("notes", { reader, line, split: answer.split, study_id: answer.study_id, verdict, note: note.value });
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        said.textContent = "kept";
      } catch (error) {
        said.textContent = error.message;
      }
    });
    return button;
  });
  row.append(...buttons, note, said);
  return row;
}
