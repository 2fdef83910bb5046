// Answers as cards: rank, study, probability, the sites that speak for it with their bars, and the slice with its box.

import { post, slicePicture } from "./api.js";

export const SEVERITIES = [["severe", "severe"], ["moderate", "moderate"], ["normal_mild", "normal/mild"]];
const percent = (p) => `${(100 * p).toFixed(p < 0.1 && p > 0 ? 1 : 0)} %`;

/** The words for how probable an answer is. */
export function chance(answer) {
  if (answer.probability != null) return `P ${answer.probability.toFixed(2)}`;
  return answer.likeness != null ? `likeness ${answer.likeness.toFixed(3)}` : "rank only";
}

/** What a query is worth, in one sentence; '' if nothing is known. */
export function worthWords(reply) {
  const worth = reply.worth;
  if (!worth) return "";
  if (!worth.known) return "What this question is worth is not known: no held-out study has known grades.";
  const [value, low, high] = worth.expected_matches ?? [];
  const expected = value == null ? "" : `Expected matches: ${value.toFixed(1)} of ${worth.searched} (${low} to ${high}). `;
  const told = worth.told_precision ? ` Of these answers ${percent(worth.told_precision[0])} should match.` : "";
  return `${expected}Of ${worth.known} held-out studies with known grades ${worth.matches} match.${told}`;
}

export function card(answer, { line: asked, showTruth, reader, open }) {
  const item = document.createElement("li");
  item.dataset.study = `${answer.split}/${answer.study_id}`;
  const head = document.createElement("div");
  head.className = "head";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `${answer.rank}. study ${answer.study_id}`;
  button.addEventListener("click", () => open(answer));
  const words = document.createElement("div");
  words.append(button, line(`${chance(answer)} · ${answer.split}${answer.seen ? " · trained on: too sure" : ""}`, "small"));
  if (showTruth && answer.matches != null) words.append(line(answer.matches ? "its known grades match" : "its known grades do not match", "small"));
  head.append(thumbnail(answer), words);
  item.append(head, ...answer.sites.map((site) => siteBars(site, showTruth)));
  if (reader && asked) item.append(verdicts(asked, answer, reader));
  return item;
}

function line(text, kind) {
  const paragraph = document.createElement("p");
  paragraph.className = kind;
  paragraph.textContent = text;
  return paragraph;
}

function siteBars(site, showTruth) {
  const block = document.createElement("div");
  const truth = showTruth && site.truth ? ` · known: ${site.truth.replace("_", "/")}` : "";
  const words = `${site.level.toUpperCase().replace("_", "-")} ${site.side ?? ""} ${site.condition.replaceAll("_", " ")}`;
  const source = site.source && site.source !== "annotated" ? ` · place: ${site.source}` : "";
  block.append(line(`${words.replace("  ", " ")}${truth}${source}`, "site"));
  const bars = document.createElement("div");
  bars.className = "bars";
  for (const [key, name] of SEVERITIES) {
    const track = document.createElement("span");
    track.className = "track";
    const fill = document.createElement("div");
    fill.className = `fill ${key}`;
    fill.style.width = `${100 * site.probabilities[key]}%`;
    track.append(fill);
    const [label, number] = [document.createElement("span"), document.createElement("span")];
    label.textContent = name;
    number.textContent = percent(site.probabilities[key]);
    bars.append(label, track, number);
  }
  block.append(bars);
  return block;
}

function thumbnail(answer) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 192;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", answer.image ? `slice of study ${answer.study_id} with the region` : "no picture");
  if (!answer.image) return canvas;
  const image = new Image();
  image.onload = () => {
    const context = canvas.getContext("2d");
    const scale = 192 / Math.max(image.naturalWidth, image.naturalHeight);
    const [left, top] = [(192 - image.naturalWidth * scale) / 2, (192 - image.naturalHeight * scale) / 2];
    context.drawImage(image, left, top, image.naturalWidth * scale, image.naturalHeight * scale);
    const [x0, y0, x1, y1] = answer.box.map((x) => (x + 0.5) * scale);
    context.strokeStyle = "#ffd23f";
    context.lineWidth = 3;
    context.strokeRect(left + x0, top + y0, x1 - x0, y1 - y0);
  };
  image.onerror = () => {
    const context = canvas.getContext("2d");
    context.fillStyle = "#999";
    context.font = "20px system-ui";
    context.textAlign = "center";
    context.fillText("picture missing", 96, 96);
  };
  image.src = slicePicture(answer.split, answer.study_id, answer.series_id, answer.instance_number);
  return canvas;
}

function verdicts(asked, answer, reader) {
  const row = document.createElement("div");
  row.className = "verdicts";
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
        await post("notes", { reader, line: asked, split: answer.split, study_id: answer.study_id, verdict, note: note.value });
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
