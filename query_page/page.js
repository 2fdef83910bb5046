// The page: a question, how it was read, its answers, and a study. The address holds the question and the study.

import { remember, remembered } from "./address.js";
import { get, post, RENEWED } from "./api.js";
import { card } from "./answers.js";
import { showFolds } from "./folds.js";
import { showChips } from "./reading.js";
import { StudyPart } from "./study.js";
import { ReadingSession } from "./verdicts.js";
import { counted, restWords, searchedWords, whyNone, worthWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const PAGE_SIZE = 12;
const MOST = 1000;
/** Further answers come by themselves up to here, so that what is below them can be reached. */
const BY_ITSELF = 4 * PAGE_SIZE;
/** reply: the last one. question: {text}, {line} or {like}. turn: counts the questions: late replies are not shown. */
const state = { reply: null, question: null, top: PAGE_SIZE, turn: 0 };
const session = new ReadingSession($("list"), $("queue"));
const study = new StudyPart((site) => remember({ site: site.key }));

function problem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
  $("by-likeness").hidden = true;
}

const limits = () => ({ split: $("split").value || null, seen: $("seen").checked || null });
/** A question as the API takes it. */
const asked = (question) =>
  question.line != null ? { line: question.line } : { text: question.text, likeness: $("likeness").checked };

/** Ask by {text}, {line} or {like: "STUDY:SITE"}; isMore: for more answers to the same question. */
async function ask(question, { isNew = true, isMore = false } = {}) {
  const turn = ++state.turn;
  if (!isMore) state.top = PAGE_SIZE;
  state.question = question;
  const waits = setTimeout(() => { $("said").textContent = "Asking…"; }, 300);
  try {
    const hasTop = /;\s*top\s+\d+/.test(question.line ?? "") || /\btop\s+\d+/i.test(question.text ?? "");
    const top = hasTop && !isMore ? null : state.top;
    const reply = question.like
      ? await get("like", { site: question.like, top, ...limits() })
      : await post("ask", { ...asked(question), top, ...limits() });
    if (turn !== state.turn) return;
    state.reply = reply;
    problem(null);
  } catch (error) {
    if (turn === state.turn) await told(error, question);
    return;
  } finally {
    clearTimeout(waits);
  }
  show(isMore);
  if (!isMore) remember({ ...kept(question), like: question.like, ...limits() }, isNew);
}

/** The parts of the address that bring back a question. */
function kept(question) {
  const byText = question.text != null && state.reply.likeness != null;
  return { text: byText ? question.text : null, likeness: byText, line: byText ? null : plainLine() };
}

/** Tell what was wrong with a question, and offer to compare words that are not graded with the images. */
async function told(error, question) {
  problem(error);
  $("said").textContent = "";
  if (question.text == null || $("likeness").checked) return;
  const read = await post("read", { text: question.text }).catch(() => null);
  if (!read?.rest || read.tree) return;
  $("problem").textContent = `"${question.text}": nothing that is graded was asked.`;
  $("by-likeness").hidden = false;
}

/** The canonical line without the limits that the page's own controls set. */
function plainLine() {
  const own = [`; top ${state.top}`, `; split ${$("split").value}`, $("seen").checked ? "; seen" : ""];
  return own.reduce((line, limit) => (limit ? line.replace(limit, "") : line), state.reply.query.line ?? "");
}

function show(isMore) {
  const { reply } = state;
  const { query } = reply;
  const rest = restWords(reply, $("likeness").checked && state.question.text != null);
  for (const id of ["reading", "answers"]) $(id).hidden = false;
  $("examples").hidden = true;
  $("rest").hidden = !rest;
  $("rest").textContent = rest;
  $("rest").className = reply.likeness?.is_told || !(query.rest || reply.likeness) ? "rest" : "rest error";
  $("edit").hidden = !query.line;
  $("line").value = plainLine();
  $("notes").replaceChildren(...query.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  const [first = "", ...further] = query.tree ? worthWords(reply) : state.question.like ? [query.text] : [];
  $("worth").replaceChildren(Object.assign(document.createElement("strong"), { textContent: first }), ` ${further.join(" ")}`);
  showChips($("chips"), query.tree, changeTree);
  $("export").hidden = state.question.like != null;
  $("searched").textContent = searchedWords(reply);
  $("said").textContent = counted(reply.answers.length, "answer");
  showList(isMore);
  showFolds($("folds"), reply, openAnswer);
}

function showList(isMore = false) {
  const { reply } = state;
  session.turnTo($("reader").checkValidity() ? $("reader").value : "", plainLine());
  const options = { showTruth: $("truth").checked, session, open: openAnswer };
  const list = $("list");
  if (!isMore) list.replaceChildren();
  list.append(...reply.answers.slice(list.childElementCount).map((answer) => card(answer, options)));
  session.count();
  $("none").hidden = reply.answers.length > 0;
  $("none").textContent = whyNone(reply);
  $("more").hidden = reply.answers.length < state.top || state.top >= MOST;
  markOpened();
}

async function changeTree(tree) {
  try {
    const { line } = await post("write", { tree });
    await ask({ line });
  } catch (error) {
    problem(error);
  }
}

async function openAnswer(answer) {
  const [first] = answer.sites;
  const key = first ? `${first.side ? `${first.side}_` : ""}${first.condition}_${first.level}` : "";
  await openStudy(answer.split, answer.study_id, key, true);
}

async function openStudy(split, id, site, isNew) {
  try {
    await study.open(split, id, site);
    problem(null);
  } catch (error) {
    problem(error);
    return;
  }
  markOpened();
  remember({ study: `${split}/${id}` }, isNew);
}

function markOpened() {
  for (const item of $("list").children) item.setAttribute("aria-current", String(item.dataset.study === study.name));
}

/** Close the study; the focus returns to the answer that it was opened from. */
function closeStudy() {
  const item = [...$("list").children].find((one) => one.dataset.study === study.name);
  study.close();
  markOpened();
  remember({ study: null, site: null });
  (item?.querySelector(".head button") ?? $("text")).focus();
}

/** Do what the address says: after a link, or "back". */
async function follow() {
  const { question, split, seen, likeness, study: opened } = remembered();
  [$("split").value, $("seen").checked, $("likeness").checked] = [split, seen, likeness];
  if (question?.text) $("text").value = question.text;
  if (question) await ask(question, { isNew: false });
  else for (const id of ["reading", "answers"]) $(id).hidden = true;
  if (opened) await openStudy(opened.split, opened.id, opened.site, false);
  else study.close();
}

async function save() {
  const top = Math.max(state.reply.answers.length, 1);
  const question = state.reply.likeness ? asked(state.question) : { line: plainLine() };
  const text = await post("export", { ...question, top, ...limits() });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function listen() {
  const on = (id, kind, act) => $(id).addEventListener(kind, act);
  const askText = () => $("text").value.trim() && ask({ text: $("text").value });
  on("ask", "submit", (event) => { event.preventDefault(); askText(); });
  on("edit", "submit", (event) => { event.preventDefault(); ask({ line: $("line").value }); });
  for (const id of ["split", "seen"]) on(id, "change", () => state.question && ask(state.question));
  on("likeness", "change", () => state.question?.text != null && askText());
  on("by-likeness", "click", () => { $("likeness").checked = true; askText(); });
  on("examples", "click", ({ target }) => { if (target.matches("button")) { $("text").value = target.textContent; askText(); } });
  on("truth", "change", () => { study.showTruth = $("truth").checked; study.draw(); if (state.reply) showList(); });
  on("reader", "change", () => state.reply && showList());
  on("more", "click", () => { state.top = Math.min(state.top + PAGE_SIZE, MOST); ask(state.question, { isMore: true }); });
  on("export", "click", () => save().catch(problem));
  on("close", "click", closeStudy);
  on("study", "keydown", (event) => { if (event.key === "Escape") closeStudy(); });
  on("similar", "click", () => ask({ like: `${study.study.study_id}:${study.site.key}` }));
  addEventListener("popstate", follow);
  addEventListener(RENEWED, () => { $("renewed").hidden = false; setTimeout(follow); });
  new IntersectionObserver(([seen]) => { if (seen.isIntersecting && state.top < BY_ITSELF) $("more").click(); }).observe($("more"));
}

listen();
get("run").then((run) => {
  const counts = Object.entries(run.studies).map(([name, count]) => `${count} ${name}`).join(", ");
  $("about").textContent = `run ${run.run}: ${counts} studies`;
  $("split").append(new Option("train and test", ""), ...run.splits.map((name) => new Option(name, name)));
  return follow();
}).catch(problem);
