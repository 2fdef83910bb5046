// Below the answers, folded: those that the prediction sets leave open or speak against, and studies without an image.

import { counted, levelWords } from "./words.js";

const LISTED = 200;

/** Fill `root` with what a reply tells beside its answers; `open` is called with an answer. */
export function showFolds(root, reply, open) {
  const told = reply.buckets ? reply.answers : [];
  const [undecided, against] = [told.filter((a) => a.by_sets == null), told.filter((a) => a.by_sets === false)];
  const level = reply.buckets?.level;
  const answerItem = (answer) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: `${answer.rank}. study ${answer.study_id}` });
    button.addEventListener("click", () => open(answer));
    return button;
  };
  const opened = new Set([...root.querySelectorAll("details[open]")].map((one) => one.id));
  root.replaceChildren(...[
    fold("cannot-tell", undecided, answerItem, `${counted(undecided.length, "answer")} that the model cannot decide`,
      `The sets of grades that hold the right one in ${level} % of sites leave open whether these studies match: ` +
      `${counted(reply.buckets?.cannot_tell, "study", "studies")} of all that were searched. Their rank and P are all that is known.`),
    fold("does-not-match", against, answerItem, `${counted(against.length, "answer")} that the sets speak against`,
      `No grade that their sites may have, by sets of ${level} %, makes the question true.`),
    fold("not-assessable", reply.not_assessable, missingItem, `${counted(reply.not_assessable.length, "study", "studies")} not assessable`,
      "No image shows a site on which the answer turns. They are not ranked."),
  ].filter(Boolean));
  for (const one of root.children) one.open = opened.has(one.id);
}

function missingItem(one) {
  const sites = one.missing.map((key) => `${levelWords(key.slice(-5))} ${key.slice(0, -6).replaceAll("_", " ")}`);
  return document.createTextNode(`study ${one.study_id} (${one.split}): ${sites.join(", ")}`);
}

function fold(id, ones, itemOf, title, why) {
  if (!ones.length) return null;
  const [details, summary, words, list] = ["details", "summary", "p", "ul"].map((name) => document.createElement(name));
  details.id = id;
  details.className = "fold";
  summary.textContent = title;
  words.textContent = why;
  words.className = "small";
  for (const one of ones.slice(0, LISTED)) {
    const item = document.createElement("li");
    item.append(itemOf(one));
    list.append(item);
  }
  if (ones.length > LISTED) list.append(Object.assign(document.createElement("li"), { textContent: `and ${ones.length - LISTED} more` }));
  details.append(summary, words, list);
  return details;
}
