// The page: a question, how it was read, its answers, and a study. The address holds the question's canonical line.

import { get, post } from "./api.js";
import { card, worthWords } from "./answers.js";
import * as geometry from "./geometry.js";
import { showChips } from "./reading.js";
import { StudyPart } from "./study.js";

const $ = (id) => document.getElementById(id);
const PAGE_SIZE = 12;
const state = { reply: null, question: null, top: PAGE_SIZE };
const study = new StudyPart((site) => remember({ site: site.key }));

function remember(changes, isNew = false) {
  const address = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value == null || value === "") address.searchParams.delete(name);
    else address.searchParams.set(name, value);
  }
  if (address.href === location.href) return;
  if (isNew) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

function problem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

/** Ask by {text}, {line} or {like: "STUDY:SITE"}. */
async function ask(question, isNew = true) {
  if (!question.more) state.top = PAGE_SIZE;
  state.question = question;
  const options = { split: $("split").value || null, seen: $("seen").checked || null };
  try {
    const limits = /;\s*top\s+\d+/.test(question.line ?? "") || /\btop\s+\d+/i.test(question.text ?? "");
    const top = limits && !question.more ? null : state.top;
    state.reply = question.like
      ? await get("like", { site: question.like, top, ...options })
      : await post("ask", { ...(question.line ? { line: question.line } : { text: question.text }), top, ...options });
    problem(null);
  } catch (error) {
    problem(error);
    return;
  }
  show();
  if (!question.more) remember({ line: plainLine(), like: question.like, split: options.split, seen: options.seen }, isNew);
}

/** The canonical line without the limits that the page's own controls set. */
function plainLine() {
  const own = [`; top ${state.top}`, `; split ${$("split").value}`, $("seen").checked ? "; seen" : ""];
  return own.reduce((line, limit) => (limit ? line.replace(limit, "") : line), state.reply.query.line ?? "");
}

function show() {
  const { reply } = state;
  const query = reply.query;
  $("reading").hidden = false;
  $("rest").hidden = !query.rest;
  $("rest").textContent = query.rest ? `Not read: "${query.rest}". The answers are to the text without it.` : "";
  $("edit").hidden = !query.line;
  $("line").value = plainLine();
  $("notes").replaceChildren(...query.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  $("worth").textContent = query.tree ? worthWords(reply) : query.text;
  if (query.tree) showChips($("chips"), query.tree, changeTree);
  else $("chips").replaceChildren();
  $("answers").hidden = false;
  $("searched").textContent = reply.studies == null ? "" :
    `${reply.studies} studies searched (${reply.splits.join(" and ")})` + (reply.left_out ? `; ${reply.left_out} that the model was trained on are left out` : "");
  showList();
  const missing = reply.not_assessable;
  $("missing").hidden = !missing.length;
  $("missing").querySelector("summary").textContent = `${missing.length} not assessable: no image shows a site that is asked for`;
  $("missing").querySelector("ul").replaceChildren(
    ...missing.slice(0, 200).map((one) => Object.assign(document.createElement("li"), { textContent: `study ${one.study_id} (${one.split})` })),
  );
}

function showList() {
  const { reply } = state;
  const options = { line: plainLine(), showTruth: $("truth").checked, reader: $("reader").checkValidity() ? $("reader").value : "", open: openAnswer };
  $("list").replaceChildren(...reply.answers.map((answer) => card(answer, options)));
  if (!reply.answers.length) {
    $("list").replaceChildren(Object.assign(document.createElement("li"), { textContent: "No study is probable enough." }));
  }
  $("more").hidden = reply.answers.length < state.top || state.top >= 1000;
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
  const first = answer.sites[0];
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
  for (const item of $("list").children) item.setAttribute("aria-current", String(item.dataset.study === `${split}/${id}`));
  remember({ study: `${split}/${id}` }, isNew);
}

/** Do what the address says: after a link, or "back". */
async function follow() {
  const parameters = new URLSearchParams(location.search);
  $("split").value = parameters.get("split") ?? "";
  $("seen").checked = parameters.get("seen") === "true";
  const [line, like] = [parameters.get("line"), parameters.get("like")];
  if (line) await ask({ line }, false);
  else if (like) await ask({ like }, false);
  const opened = parameters.get("study");
  if (opened) await openStudy(opened.slice(0, opened.lastIndexOf("/")), opened.slice(opened.lastIndexOf("/") + 1), parameters.get("site"), false);
  else study.close();
}

async function save() {
  const text = await post("export", { line: plainLine(), top: Math.max(state.reply.answers.length, 1), seen: $("seen").checked || null, split: $("split").value || null });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); if ($("text").value.trim()) ask({ text: $("text").value }); });
$("edit").addEventListener("submit", (event) => { event.preventDefault(); ask({ line: $("line").value }); });
$("split").addEventListener("change", () => state.question && ask(state.question));
$("seen").addEventListener("change", () => state.question && ask(state.question));
$("truth").addEventListener("change", () => {
  study.showTruth = $("truth").checked;
  if (state.reply) showList();
  if (study.viewer) { study.drawGrid(); study.choose(study.site); }
});
$("reader").addEventListener("change", () => state.reply && showList());
$("more").addEventListener("click", () => { state.top = Math.min(state.top + PAGE_SIZE, 1000); ask({ ...state.question, more: true }, false); });
$("export").addEventListener("click", () => save().catch(problem));
$("close").addEventListener("click", () => { study.close(); remember({ study: null, site: null }); });
$("similar").addEventListener("click", () => ask({ like: `${study.study.study_id}:${study.site.key}` }));
addEventListener("popstate", follow);
window.geometry_for_tests = geometry;
new IntersectionObserver(([seen]) => { if (seen.isIntersecting && !$("more").hidden) $("more").click(); }).observe($("more"));

get("run").then((run) => {
  const counts = Object.entries(run.studies).map(([name, count]) => `${count} ${name}`).join(", ");
  $("about").textContent = `run ${run.run}: ${counts} studies`;
  $("split").append(new Option("train and test", ""), ...run.splits.map((name) => new Option(name, name)));
  return follow();
}).catch(problem);
