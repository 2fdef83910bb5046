// The page: a question, how it was read, its answers, and a study. The address holds the question and the study.

import { remember, remembered } from "./address.js";
import { get, post, RENEWED } from "./api.js";
import { card } from "./answers.js";
import { showFolds } from "./folds.js";
import { closeMenus, showChips } from "./reading.js";
import { StudyPart } from "./study.js";
import { ReadingSession } from "./verdicts.js";
import { counted, restWords, searchedWords, whyNone, worthWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const PAGE_SIZE = 12;
const MOST = 1000;
/** Further answers come by themselves up to here, so that what is below them can be reached. */
const BY_ITSELF = 4 * PAGE_SIZE;
/** Of what is searched if no set is chosen. */
const SPLITS = ["train", "test"];
/**
 * What is shown: reply, the last one; request, what was sent for it; question, what was asked: {text}, {line, words} or
 * {like, split}. tried: the last question, also one that failed. turn: counts the questions: late replies are not
 * shown. isAsking: whether a reply is waited for. isStale: whether the answers shown are those of an older index.
 */
const state = { reply: null, request: null, question: null, tried: null, turn: 0, isAsking: false, isStale: false };
const run = { name: "", splits: [] };
const session = new ReadingSession($("list"), $("queue"));
const study = new StudyPart((site) => remember({ site: site.key }));

function problem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
  $("by-likeness").hidden = true;
}

/** Tell what is wrong with the link that was followed; '' if nothing is. */
function tellLink(text) {
  $("link").hidden = !text;
  $("link").textContent = text;
}

const limits = () => ({ split: $("split").value || null, seen: $("seen").checked || null });

/** What is sent for a question, as the page's controls are now. */
function requestFor(question) {
  if (question.like) return { site: question.like, ...limits() };
  const words = question.line != null ? { line: question.line, words: question.words } : { text: question.text };
  return { ...words, likeness: $("likeness").checked && (question.text ?? question.words) != null, ...limits() };
}

/** Send a request for so many answers, unless the question itself says how many. */
const sent = (request, most) => (request.site ? get("like", { ...request, top: most }) : post("ask", { ...request, page: most }));

/** Ask by {text}, {line} or {like: "STUDY:SITE"}. Returns whether the reply is shown. */
async function ask(question, { isNew = true } = {}) {
  const request = requestFor(question);
  state.tried = question;
  return answered(question, request, PAGE_SIZE, (reply) => {
    problem(null);
    if (isNew) tellLink("");
    show();
    remember({ ...kept(question, reply), like: question.like, ...limits(), run: linkedRun(isNew) }, isNew);
  });
}

/** Show further answers to the question that is shown. */
function askMore() {
  if (state.isAsking || !state.reply) return;
  const most = Math.min(state.reply.most + PAGE_SIZE, MOST);
  answered(state.question, state.request, most, () => { problem(null); show(!state.isStale); });
}

/** Send a request; `shown` is called with its reply, unless another question was asked meanwhile. */
async function answered(question, request, most, shown) {
  const turn = ++state.turn;
  state.isAsking = true;
  const waits = setTimeout(() => { $("said").textContent = "Asking…"; }, 300);
  try {
    const reply = await sent(request, most);
    if (turn !== state.turn) return false;
    Object.assign(state, { reply: { ...reply, most }, request, question });
    shown(reply);
    state.isStale = false;
    return true;
  } catch (error) {
    if (turn === state.turn) await told(error, question, turn);
    return false;
  } finally {
    clearTimeout(waits);
    if (turn === state.turn) state.isAsking = false;
  }
}

/** The parts of the address that bring back a question. */
function kept(question, reply) {
  const byWords = reply.likeness != null;
  const byText = byWords && question.text != null;
  return {
    text: byText ? question.text : null,
    likeness: byWords,
    line: byText ? null : reply.query.said.line,
    words: byWords && !byText ? question.words : null,
  };
}

/** The run that the address names: this one, unless a link that was made for another one is followed. */
const linkedRun = (isNew) => (isNew ? run.name : remembered().run ?? run.name);

/** Tell what was wrong with a question, and offer to compare words that are not graded with the images. */
async function told(error, question, turn) {
  problem(error);
  $("said").textContent = "";
  if (state.reply) drawChips();
  if (question.text == null || $("likeness").checked) return;
  const read = await post("read", { text: question.text }).catch(() => null);
  if (!read?.rest || read.tree || turn !== state.turn) return;
  $("problem").textContent = `"${question.text}": nothing that is graded was asked.`;
  $("by-likeness").hidden = false;
}

function show(isMore = false) {
  const { reply } = state;
  const { query } = reply;
  const rest = restWords(reply, state.request.likeness);
  for (const id of ["reading", "answers"]) $(id).hidden = false;
  $("examples").hidden = true;
  $("rest").hidden = !rest;
  $("rest").textContent = rest;
  $("rest").className = reply.likeness?.is_told || !(query.rest || reply.likeness) ? "rest" : "rest error";
  $("edit").hidden = !query.line;
  $("line").value = query.said.line ?? "";
  const notes = [...query.notes, ...(state.question.note ? [state.question.note] : [])];
  $("notes").replaceChildren(...notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  const [first = "", ...further] = query.tree ? worthWords(reply) : state.question.like ? [query.text] : [];
  $("worth").replaceChildren(Object.assign(document.createElement("strong"), { textContent: first }), ` ${further.join(" ")}`);
  drawChips();
  $("export").hidden = state.question.like != null;
  $("searched").textContent = searchedWords(reply);
  $("said").textContent = counted(reply.answers.length, "answer");
  showList(isMore);
  showFolds($("folds"), reply, openAnswer);
  nameTab();
}

const drawChips = () => showChips($("chips"), state.reply.query.tree, changeTree);

function showList(isMore = false) {
  const { reply } = state;
  const { said } = reply.query;
  session.turnTo($("reader").checkValidity() ? $("reader").value : "", said.line ?? "");
  const options = { showTruth: $("truth").checked, session, open: openAnswer };
  const list = $("list");
  if (!isMore) list.replaceChildren();
  list.append(...reply.answers.slice(list.childElementCount).map((answer) => card(answer, options)));
  session.count();
  $("none").hidden = reply.answers.length > 0;
  $("none").textContent = whyNone(reply);
  $("more").hidden = said.limits.top != null || reply.answers.length < reply.most || reply.most >= MOST;
  markOpened();
}

/** Ask for a tree that was changed, with the limits and the free words of the question that is shown. */
async function changeTree(tree) {
  const { query } = state.reply;
  try {
    const { line } = await post("write", { tree, limits: query.said.limits });
    await ask({ line, words: query.rest || null });
  } catch (error) {
    problem(error);
    drawChips();
  }
}

async function openAnswer(answer) {
  const [first] = answer.sites;
  const key = first ? `${first.side ? `${first.side}_` : ""}${first.condition}_${first.level}` : "";
  await openStudy(answer.split, answer.study_id, key, true);
}

async function openStudy(split, id, site, isNew) {
  try {
    if (!(await study.open(split, id, site))) return;
    problem(null);
  } catch (error) {
    problem(error);
    return;
  }
  markOpened();
  nameTab();
  remember({ study: `${split}/${id}`, run: linkedRun(false) }, isNew);
}

function markOpened() {
  for (const item of $("list").children) item.setAttribute("aria-current", String(item.dataset.study === study.name));
}

/** Name the tab of the browser after what is shown. */
function nameTab() {
  const asked = state.reply && (state.reply.query.said.line ?? state.reply.query.text);
  document.title = [study.name && `study ${study.name.split("/").pop()}`, asked, "Lumbar VL"].filter(Boolean).join(" · ");
}

/** Close the study; the focus returns to the answer that it was opened from. */
function closeStudy() {
  const item = [...$("list").children].find((one) => one.dataset.study === study.name);
  study.close();
  markOpened();
  nameTab();
  remember({ study: null, site: null });
  (item?.querySelector(".head button") ?? $("text")).focus();
}

/** Ask for studies like the site that is shown, in a set that holds its study. */
function askSimilar() {
  const { split, study_id: id } = study.study;
  const chosen = $("split").value;
  const isAmong = chosen ? chosen === split : SPLITS.includes(split);
  if (!isAmong) $("split").value = split;
  const note = isAmong ? "" : `Similar studies are searched in ${split}, the set of study ${id}: that study is not in the set that was chosen.`;
  return ask({ like: `${id}:${study.site.key}`, note });
}

/** What does not fit this run in a link; '' if all of it does. */
function misfits({ run: named, split, study: opened }) {
  const said = [];
  if (named && named !== run.name) said.push(`This link was made for run ${named}; this is run ${run.name}.`);
  if (split && !run.splits.includes(split)) said.push(`The link searches "${split}", which run ${run.name} does not have: nothing was searched.`);
  if (opened && !run.splits.includes(opened.split)) said.push(`The link opens a study of "${opened.split}", which run ${run.name} does not have.`);
  return said.join(" ");
}

/** Show neither a question nor answers; a late reply is not shown either. */
function showNothing() {
  state.turn += 1;
  Object.assign(state, { reply: null, request: null, question: null, tried: null, isAsking: false });
  for (const id of ["reading", "answers"]) $(id).hidden = true;
}

/** Do what the address says: after a link, or "back". */
async function follow() {
  const link = remembered();
  const { question, split, study: opened } = link;
  tellLink(misfits(link));
  [$("seen").checked, $("likeness").checked] = [link.seen, link.likeness];
  const isKnown = !split || run.splits.includes(split);
  $("split").value = isKnown ? split : "";
  if (question?.text) $("text").value = question.text;
  if (question && isKnown) await ask(question, { isNew: false });
  else showNothing();
  if (opened && run.splits.includes(opened.split)) await openStudy(opened.split, opened.id, opened.site, false);
  else study.close();
  nameTab();
}

/** Show what the new index tells: of the study that is open, and of the question unless another one is under way. */
function renew() {
  $("renewed").hidden = false;
  state.isStale = true;
  if (study.name && !study.isOpening) study.open(study.study.split, study.study.study_id, study.site?.key, false).catch(problem);
  if (state.reply && !state.isAsking) answered(state.question, state.request, state.reply.most, () => { problem(null); show(); });
}

async function save() {
  const top = Math.max(state.reply.answers.length, 1);
  const text = await post("export", { ...state.request, top });
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
  for (const id of ["split", "seen"]) on(id, "change", () => state.tried && ask({ ...state.tried, note: "" }));
  on("likeness", "change", () => (state.tried?.words != null ? ask(state.tried) : state.tried?.text != null && askText()));
  on("by-likeness", "click", () => { $("likeness").checked = true; askText(); });
  on("examples", "click", ({ target }) => { if (target.matches("button")) { $("text").value = target.textContent; askText(); } });
  on("truth", "change", () => { study.showGrades($("truth").checked); if (state.reply) showList(); });
  on("reader", "change", () => state.reply && showList());
  on("more", "click", askMore);
  on("export", "click", () => save().catch(problem));
  on("close", "click", closeStudy);
  on("study", "keydown", (event) => { if (event.key === "Escape") closeStudy(); });
  on("similar", "click", askSimilar);
  addEventListener("popstate", follow);
  addEventListener(RENEWED, renew);
  addEventListener("pointerdown", ({ target }) => closeMenus($("chips"), target));
  new IntersectionObserver(([seen]) => { if (seen.isIntersecting && state.reply?.most < BY_ITSELF) askMore(); }).observe($("more"));
}

listen();
get("run").then((about) => {
  Object.assign(run, { name: about.run, splits: about.splits });
  const counts = Object.entries(about.studies).map(([name, count]) => `${count} ${name}`).join(", ");
  $("about").textContent = `run ${about.run}: ${counts} studies`;
  $("split").append(new Option("train and test", ""), ...about.splits.map((name) => new Option(name, name)));
  return follow();
}).catch(problem);
