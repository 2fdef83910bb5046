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

/** The question, its limits and the open study that the address holds. */
export function remembered() {
  const parts = new URLSearchParams(location.search);
  const [text, line, like, study] = ["text", "line", "like", "study"].map((name) => parts.get(name));
  const cut = study ? study.lastIndexOf("/") : -1;
  return {
    question: like ? { like } : text ? { text } : line ? { line } : null,
    split: parts.get("split") ?? "",
    seen: parts.get("seen") === "true",
    likeness: parts.get("likeness") === "true",
    study: cut > 0 ? { split: study.slice(0, cut), id: study.slice(cut + 1), site: parts.get("site") } : null,
  };
}
