// Answers as cards: rank, study, probability, the sites that speak for it with their bars, and the slice with its box.

import { thumbnail } from "./thumbnail.js";
import { chance, GRADES, levelWords, percent, SEEN, setsWords, typicalityWords } from "./words.js";

/** The card of an answer. session: the reading session. open: called with the answer. */
export function card(answer, { showTruth, session, open }) {
  const item = document.createElement("li");
  item.dataset.study = `${answer.split}/${answer.study_id}`;
  const head = document.createElement("div");
  head.className = "head";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `${answer.rank}. study ${answer.study_id}`;
  button.addEventListener("click", () => open(answer));
  const words = document.createElement("div");
  words.append(button, paragraph(chance(answer), answer.probability == null ? "small" : "chance"), paragraph(factsOf(answer), "small"));
  const doubt = typicalityWords(answer);
  if (doubt) words.append(paragraph(doubt, "small doubt"));
  if (showTruth && answer.matches != null) words.append(paragraph(answer.matches ? "its known grades match" : "its known grades do not match", "small"));
  head.append(thumbnail(answer), words);
  item.append(head, ...answer.sites.map((site) => siteBars(site, showTruth)));
  if (session.isOpen) item.append(session.row(answer));
  return item;
}

function factsOf(answer) {
  const facts = [answer.split];
  if (answer.score != null) facts.push(setsWords(answer));
  if (answer.seen) facts.push(SEEN);
  return facts.join(" · ");
}

function paragraph(text, kind) {
  return Object.assign(document.createElement("p"), { textContent: text, className: kind });
}

function siteBars(site, showTruth) {
  const block = document.createElement("div");
  const truth = showTruth && site.truth ? ` · known: ${site.truth.replace("_", "/")}` : "";
  const words = [levelWords(site.level), site.side, site.condition.replaceAll("_", " ")].filter(Boolean).join(" ");
  const source = site.source && site.source !== "annotated" ? ` · place: ${site.source}` : "";
  block.append(paragraph(`${words}${truth}${source}`, "site"));
  const bars = document.createElement("div");
  bars.className = "bars";
  for (const { key, short } of [...GRADES].reverse()) {
    const [track, fill] = [document.createElement("span"), document.createElement("div")];
    track.className = "track";
    fill.className = `fill ${key}`;
    fill.style.width = `${100 * site.probabilities[key]}%`;
    track.append(fill);
    const [label, number] = [document.createElement("span"), document.createElement("span")];
    label.textContent = short;
    number.textContent = percent(site.probabilities[key]);
    bars.append(label, track, number);
  }
  block.append(bars);
  return block;
}
