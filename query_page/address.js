// What the address of the page holds: the question, its limits, and the study that is open.

/** Change parts of the address; null or "" removes one. isNew: "back" returns to what was before. */
export function remember(changes, isNew = false) {
  const address = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value == null || value === "" || value === false) address.searchParams.delete(name);
    else address.searchParams.set(name, value);
  }
  if (address.href === location.href) return;
  if (isNew) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

/** The question, its limits, the open study and the run that the address holds; what is misshapen is left out. */
export function remembered() {
  const parts = new URLSearchParams(location.search);
  const [text, line, words, like] = ["text", "line", "words", "like"].map((name) => parts.get(name));
  const [, studySplit, id] = /^([^/\\]+)\/(\d{1,18})$/.exec(parts.get("study") ?? "") ?? [];
  return {
    question: like ? { like } : text ? { text } : line ? { line, words } : null,
    split: parts.get("split") ?? "",
    seen: parts.get("seen") === "true",
    likeness: parts.get("likeness") === "true",
    study: id ? { split: studySplit, id, site: parts.get("site") } : null,
    run: parts.get("run"),
  };
}
