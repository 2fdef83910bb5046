// One study: the grid of its 25 sites beside the viewer.

import { get } from "./api.js";
import { REGIONS, levelWords } from "./reading.js";
import { Viewer } from "./viewer.js";

const LETTERS = { normal_mild: "N", moderate: "M", severe: "S" };
const KEYS = ["normal_mild", "moderate", "severe"];
const LEVELS = ["l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1"];

export class StudyPart {
  constructor(onSite) {
    this.root = document.getElementById("study");
    this.onSite = onSite;
    this.viewer = null;
    this.showTruth = false;
  }

  /** Open a study, at a site if one is named. */
  async open(split, studyId, siteKey) {
    this.study = await get(`study/${encodeURIComponent(split)}/${studyId}`);
    this.root.hidden = false;
    const name = document.getElementById("study-name");
    name.textContent = `Study ${studyId} (${split}${this.study.seen ? ", trained on: too sure" : ""})`;
    this.viewer?.close();
    this.viewer = new Viewer(document.getElementById("panes"), split, this.study.slices);
    window.viewer_for_tests = this.viewer;
    this.drawGrid();
    const site = this.study.sites.find((one) => one.key === siteKey) ?? this.study.sites.find((one) => one.views.length);
    if (site) this.choose(site);
    name.focus({ preventScroll: true });
    this.root.scrollIntoView({ block: "nearest" });
  }

  close() {
    this.viewer?.close();
    this.viewer = null;
    this.site = null;
    this.root.hidden = true;
  }

  choose(site) {
    this.site = site;
    this.viewer.showSite(site);
    for (const button of document.querySelectorAll("#grid button")) button.setAttribute("aria-pressed", String(button.dataset.site === site.key));
    document.getElementById("similar").disabled = !site.probabilities;
    this.onSite(site);
  }

  drawGrid() {
    const table = document.getElementById("grid");
    table.querySelectorAll("thead, tbody").forEach((part) => part.remove());
    const head = table.createTHead().insertRow();
    for (const text of ["level", ...REGIONS.map(([, words]) => words)]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      head.append(cell);
    }
    const body = table.createTBody();
    for (const level of LEVELS) {
      const row = body.insertRow();
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = levelWords(level);
      row.append(name);
      for (const [region, words] of REGIONS) row.insertCell().append(this.cell(`${region}_${level}`, `${levelWords(level)} ${words}`));
    }
  }

  cell(key, words) {
    const site = this.study.sites.find((one) => one.key === key);
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.site = key;
    button.setAttribute("aria-pressed", "false");
    if (!site.probabilities) {
      button.textContent = "–";
      button.setAttribute("aria-label", `${words}: no image shows it`);
      button.disabled = true;
      return button;
    }
    const best = site.probabilities.indexOf(Math.max(...site.probabilities));
    const value = Math.round(100 * site.probabilities[best]);
    button.className = `cell-${KEYS[best]}`;
    button.textContent = `${LETTERS[KEYS[best]]} ${value}`;
    button.setAttribute("aria-label", `${words}: ${KEYS[best].replace("_", " or ")} with ${value} %`);
    if (this.showTruth && site.truth) {
      const truth = document.createElement("span");
      truth.className = "truth";
      truth.textContent = `known ${LETTERS[site.truth]}`;
      button.append(truth);
    }
    button.addEventListener("click", () => this.choose(site));
    return button;
  }
}
