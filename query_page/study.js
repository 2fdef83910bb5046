// One study: the grid of its 25 sites beside the viewer.

import { get } from "./api.js";
import { LEVELS, REGIONS } from "./reading.js";
import { Viewer, VIEWS } from "./viewer.js";
import { gradeOf, GRADES, levelWords, percent, SEEN, typicalityWords } from "./words.js";

const $ = (id) => document.getElementById(id);

export class StudyPart {
  /** onSite: called with the site that is shown. */
  constructor(onSite) {
    this.root = $("study");
    this.onSite = onSite;
    this.viewer = null;
    this.showTruth = false;
    this.turn = 0;
    this.isOpening = false;
  }

  /** SPLIT/STUDY of the study that is open; "" if none is. */
  get name() { return this.viewer ? `${this.study.split}/${this.study.study_id}` : ""; }

  /**
   * Open a study, at a site if one is named. Returns whether it is shown: it is not if another one was opened, or the
   * part was closed, before it came. takesFocus: whether the focus moves to its name.
   */
  async open(split, studyId, siteKey, takesFocus = true) {
    const study = await this.latest(get(`study/${encodeURIComponent(split)}/${studyId}`));
    if (!study) return false;
    this.study = study;
    this.root.hidden = false;
    const name = $("study-name");
    const facts = [split, study.seen ? SEEN : "", typicalityWords(study)].filter(Boolean);
    name.textContent = `Study ${studyId} (${facts.join("; ")})`;
    this.viewer?.close();
    this.viewer = new Viewer($("panes"), split, this.study.slices);
    this.site = this.study.sites.find((one) => one.key === siteKey) ?? this.study.sites.find((one) => one.views.length);
    this.drawGrid();
    if (this.site) this.choose(this.site);
    if (takesFocus) {
      name.focus({ preventScroll: true });
      this.root.scrollIntoView({ block: "nearest" });
    }
    return true;
  }

  /** Return what a promise brings, or null if another one was waited for or the part was closed meanwhile. */
  async latest(promise) {
    const turn = ++this.turn;
    this.isOpening = true;
    try {
      const brought = await promise;
      return turn === this.turn ? brought : null;
    } catch (error) {
      if (turn === this.turn) throw error;
      return null;
    } finally {
      if (turn === this.turn) this.isOpening = false;
    }
  }

  close() {
    this.turn += 1;
    this.isOpening = false;
    this.viewer?.close();
    this.viewer = null;
    this.site = null;
    this.root.hidden = true;
  }

  /** Show known grades, or hide them; the panes stay as they are. */
  showGrades(isShown) {
    this.showTruth = isShown;
    if (!this.viewer) return;
    this.drawGrid();
    if (this.site) this.tellSite(this.site);
  }

  choose(site) {
    this.site = site;
    this.viewer.showSite(site);
    this.tellSite(site);
    this.onSite(site);
  }

  /** Mark a site in the grid, and tell what is known of it. */
  tellSite(site) {
    for (const button of document.querySelectorAll("#grid button")) button.setAttribute("aria-pressed", String(button.dataset.site === site.key));
    $("similar").disabled = !site.probabilities;
    $("site").textContent = this.siteWords(site);
  }

  /** What is known of a site, in a sentence. */
  siteWords(site) {
    const grades = site.probabilities?.map((p, i) => `${GRADES[i].words} ${percent(p)}`).reverse().join(", ") ?? "no image shows it";
    const known = this.showTruth && site.truth ? ` Known: ${gradeOf(site.truth).words}.` : "";
    const seen = site.views.filter((view) => view.weight != null)
      .map((view) => `${VIEWS.find(([key]) => key === view.view)[1]} ${view.weight.toFixed(2)}`);
    const weights = seen.length ? ` Weight of each view: ${seen.join(", ")}.` : "";
    const source = site.views.length ? ` Place: ${site.views[0].source}.` : "";
    return `${site.words}: ${grades}.${known}${weights}${source}`;
  }

  drawGrid() {
    const table = $("grid");
    const focused = document.activeElement?.dataset?.site;
    table.querySelectorAll("thead, tbody").forEach((part) => part.remove());
    const head = table.createTHead().insertRow();
    head.append(...["level", ...REGIONS.map(([, words]) => words)].map((words) => heading(words, "col")));
    const body = table.createTBody();
    for (const level of LEVELS) {
      const row = body.insertRow();
      row.append(heading(levelWords(level), "row"));
      for (const [region, words] of REGIONS) row.insertCell().append(this.cell(`${region}_${level}`, `${levelWords(level)} ${words}`));
    }
    if (focused) table.querySelector(`[data-site="${focused}"]`)?.focus();
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
    const highest = Math.max(...site.probabilities);
    const best = GRADES[site.probabilities.indexOf(highest)];
    const value = percent(highest).replace(" %", "").replace("> ", ">");
    button.className = `cell-${best.key}`;
    button.textContent = `${best.letter} ${value}`;
    const known = this.showTruth ? gradeOf(site.truth) : null;
    button.setAttribute("aria-label", `${words}: ${best.words} with ${value} %${known ? `, known ${known.words}` : ""}`);
    if (known) button.append(Object.assign(document.createElement("span"), { className: known === best ? "truth" : "truth differs", textContent: `known ${known.letter}` }));
    button.addEventListener("click", () => this.choose(site));
    return button;
  }
}

function heading(words, scope) {
  return Object.assign(document.createElement("th"), { scope, textContent: words });
}
