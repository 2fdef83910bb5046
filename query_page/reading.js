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
  if (kind === "not") return [joint("not"), ...bracketed(tree.not, changed)];
  if (kind === "same_level") return [joint("at the same level ("), ...nodes(tree.same_level, changed), joint(")")];
  return tree[kind].flatMap((part, i) => (i ? [joint(kind), ...bracketed(part, changed)] : bracketed(part, changed)));
}

function bracketed(part, changed) {
  const isJoined = "and" in part || "or" in part;
  return isJoined ? [joint("("), ...nodes(part, changed), joint(")")] : nodes(part, changed);
}

/** How many sites or levels, as options; one that the page does not offer by itself is added to them. */
function overs({ over, count }) {
  const isOffered = OVERS.some(([o, n]) => o === over && n === count);
  return isOffered ? OVERS : [...OVERS, [over, count, `${count || ""} ${over.replaceAll("_", " ")} levels of`.trim()]];
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
    select("how many", overs(finding).map((o) => [key(o), o[2]]), key([finding.over, finding.count]), (value) => {
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
  const tick = (value, words) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = finding.sites.some((site) => isAt(site, value));
    box.addEventListener("change", () => {
      const sites = ticked(finding.sites, value, box.checked);
      if (!sites.length) { box.checked = true; return; }
      finding.sites = sites;
      changed();
    });
    label.append(box, ` ${words}`);
    return label;
  };
  menu.append(...REGIONS.map(([r, words]) => tick(r, words)), ...LEVELS.map((l) => tick(l, levelWords(l))));
  details.append(summary, menu);
  return details;
}

const isAt = (site, value) => [site.slice(0, -6), site.slice(-5)].includes(value);

/**
 * The sites with a region or a level added, or without it. An added region is that of the levels that there are, an
 * added level that of the regions: no other site changes.
 */
export function ticked(sites, value, isOn) {
  if (!isOn) return sites.filter((site) => !isAt(site, value));
  const has = new Set(sites);
  const among = (part) => part === value || sites.some((site) => isAt(site, part));
  const isAdded = (r, l) => [r, l].includes(value) && among(r) && among(l);
  return REGIONS.flatMap(([r]) => LEVELS.filter((l) => has.has(`${r}_${l}`) || isAdded(r, l)).map((l) => `${r}_${l}`));
}

/** Close the menus of places that an element is not in. */
export function closeMenus(root, element) {
  for (const menu of root.querySelectorAll("details[open]")) if (!menu.contains(element)) menu.open = false;
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
