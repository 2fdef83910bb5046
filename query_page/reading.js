// How a question was read, as chips that can be changed: a tree of findings, each with how many, where and which grades.

import { levelWords } from "./words.js";

const OVERS = [
  ["any", 0, "any of"], ["all", 0, "all of"], ["both_sides", 0, "both sides of"], ["only_here", 0, "only here:"],
  ...[1, 2, 3, 4, 5].map((n) => ["at_least", n, `at least ${n} level${n > 1 ? "s" : ""} of`]),
  ...[1, 2, 3, 4, 5].map((n) => ["exactly", n, `exactly ${n} level${n > 1 ? "s" : ""} of`]),
  ...[2, 3, 4].map((n) => ["adjacent", n, `${n} adjacent levels of`]),
];
const GRADES = [
  ["severe", "severe"], ["moderate,severe", "moderate or severe"], ["moderate", "moderate"],
  ["normal_mild", "normal or mild"], ["normal_mild,moderate", "at most moderate"], ["normal_mild,severe", "not moderate"],
];
export const LEVELS = ["l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1"];
export const REGIONS = [
  ["spinal_canal_stenosis", "canal"],
  ["left_neural_foraminal_narrowing", "left foramen"], ["right_neural_foraminal_narrowing", "right foramen"],
  ["left_subarticular_stenosis", "left recess"], ["right_subarticular_stenosis", "right recess"],
];

/**
 * Fill `root` with the chips of a tree (none if it is null); `changed` is called with the new tree. A control that had
 * the focus, and a menu that was open, still are if the new tree has as many.
 */
export function showChips(root, tree, changed) {
  const controls = () => [...root.querySelectorAll("select, summary, input")];
  const menus = () => [...root.querySelectorAll("details")];
  const before = controls();
  const [focused, opened] = [before.indexOf(document.activeElement), menus().map((menu) => menu.open)];
  const copy = structuredClone(tree);
  root.replaceChildren(...(copy ? nodes(copy, () => changed(copy)) : []));
  if (controls().length !== before.length) return;
  menus().forEach((menu, i) => { menu.open = opened[i]; });
  controls()[focused]?.focus();
}

function nodes(tree, changed) {
  const [kind] = Object.keys(tree);
  if (kind === "finding") return [findingChip(tree.finding, changed)];
  if (kind === "worse") return [worseChip(tree.worse, changed)];
  if (kind === "not") return [joint("not"), ...nodes(tree.not, changed)];
  if (kind === "same_level") return [joint("at the same level:"), ...nodes(tree.same_level, changed)];
  return tree[kind].flatMap((part, i) => {
    const isJoined = "and" in part || "or" in part;
    const inner = isJoined ? [joint("("), ...nodes(part, changed), joint(")")] : nodes(part, changed);
    return i ? [joint(kind), ...inner] : inner;
  });
}

function joint(text) {
  const span = document.createElement("span");
  span.className = "joint";
  span.textContent = text;
  return span;
}

function select(label, options, value, changed) {
  const element = document.createElement("select");
  element.setAttribute("aria-label", label);
  for (const [key, words] of options) element.append(new Option(words, key, key === value, key === value));
  element.addEventListener("change", () => changed(element.value));
  return element;
}

function findingChip(finding, changed) {
  const chip = document.createElement("span");
  chip.className = "chip";
  const key = ([over, count]) => `${over},${count}`;
  chip.append(
    select("how many", OVERS.map((o) => [key(o), o[2]]), key([finding.over, finding.count]), (value) => {
      const [over, count] = value.split(",");
      Object.assign(finding, { over, count: Number(count) });
      changed();
    }),
    places(finding, changed),
    select("grades", GRADES, finding.severities.join(","), (value) => {
      finding.severities = value.split(",");
      changed();
    }),
  );
  return chip;
}

function places(finding, changed) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const menu = document.createElement("div");
  menu.className = "menu";
  menu.setAttribute("role", "group");
  menu.setAttribute("aria-label", "places");
  summary.textContent = placeWords(finding.sites);
  details.addEventListener("keydown", (event) => { if (event.key === "Escape") { details.open = false; summary.focus(); } });
  details.addEventListener("focusout", ({ relatedTarget }) => { if (relatedTarget && !details.contains(relatedTarget)) details.open = false; });
  const regions = new Set(finding.sites.map((site) => site.slice(0, -6)));
  const levels = new Set(finding.sites.map((site) => site.slice(-5)));
  const tick = (set, value, words) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = set.has(value);
    box.addEventListener("change", () => {
      if (box.checked) set.add(value); else set.delete(value);
      if (!set.size) { box.checked = true; set.add(value); return; }
      finding.sites = REGIONS.flatMap(([r]) => (regions.has(r) ? LEVELS.filter((l) => levels.has(l)).map((l) => `${r}_${l}`) : []));
      changed();
    });
    label.append(box, ` ${words}`);
    return label;
  };
  menu.append(...REGIONS.map(([r, words]) => tick(regions, r, words)), ...LEVELS.map((l) => tick(levels, l, levelWords(l))));
  details.append(summary, menu);
  return details;
}

function placeWords(sites) {
  const regions = REGIONS.filter(([r]) => sites.some((site) => site.startsWith(r)));
  const levels = LEVELS.filter((l) => sites.some((site) => site.endsWith(l)));
  let names = regions.map(([, words]) => words);
  for (const name of ["foramen", "recess"]) {
    if (names.includes(`left ${name}`) && names.includes(`right ${name}`)) {
      names = names.filter((words) => words !== `right ${name}`).map((words) => (words === `left ${name}` ? name : words));
    }
  }
  const where = regions.length === REGIONS.length ? "any site" : names.join(", ");
  const isWhole = sites.length === regions.length * levels.length;
  return `${where} at ${levels.length === 5 ? "any level" : levels.map(levelWords).join(", ")}${isWhole ? "" : " (in part)"}`;
}

function worseChip(worse, changed) {
  const chip = document.createElement("span");
  chip.className = "chip";
  const where = worse.condition === "neural_foraminal_narrowing" ? "foramen" : "recess";
  chip.append(
    select("worse side", [["left", `${where}: left worse than right`], ["right", `${where}: right worse than left`]], worse.side, (side) => {
      worse.side = side;
      changed();
    }),
  );
  if (worse.levels.length < 5) chip.append(joint(`at ${worse.levels.map(levelWords).join(", ")}`));
  return chip;
}
