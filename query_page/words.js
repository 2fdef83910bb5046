// The words for grades, and the sentences in which the page tells a reply; those of the command line (vl_model/queries/reply_text.py).

/** The grades from the mildest one on, with their key in replies, their letter and their words. */
export const GRADES = [
  { key: "normal_mild", letter: "N", words: "normal or mild", short: "normal/mild" },
  { key: "moderate", letter: "M", words: "moderate", short: "moderate" },
  { key: "severe", letter: "S", words: "severe", short: "severe" },
];

/** The grade of a key; null if there is none, as without a known grade. */
export const gradeOf = (key) => GRADES.find((grade) => grade.key === key) ?? null;

export const levelWords = (level) => level.toUpperCase().replace("_", "-");

/** A probability in per cent, which is neither rounded to certainty nor to impossibility. */
export function percent(p) {
  if (p > 0 && p < 0.001) return "< 0.1 %";
  if (p < 1 && p >= 0.995) return "> 99 %";
  return `${(100 * p).toFixed(p < 0.1 && p > 0 ? 1 : 0)} %`;
}

/** How probable an answer is. */
export function chance(answer) {
  const { probability: p } = answer;
  if (p != null) return `P ${p < 1 && p >= 0.995 ? "> 0.99" : p.toFixed(2)}`;
  return answer.likeness != null ? `likeness ${answer.likeness.toFixed(3)}` : "rank only";
}

/** What the prediction sets tell of an answer. */
export const setsWords = (answer) =>
  `prediction sets: ${answer.by_sets == null ? "undecided" : answer.by_sets ? "the study matches" : "the study does not match"}`;

/** What is told of a study with images of another kind than the held-out studies; "" of others. */
export const typicalityWords = (study) => study.typicality == null || study.typicality > 0.05 ? ""
  : `atypical images (typicality ${study.typicality.toFixed(3)}): the probabilities may be wrong`;

/** What is told of a study that the model was trained on. */
export const SEEN = "the model was trained on this study: its probabilities are too sure";

/** What a query is worth, as sentences, the most important one first. */
export function worthWords(reply) {
  const worth = reply.worth;
  if (!worth) return [];
  if (!worth.known) return ["What this question is worth is not known: no held-out study has known grades."];
  const [value, low, high] = worth.expected_matches ?? [];
  const said = [`Of ${worth.known} held-out studies with known grades ${worth.matches} match.`];
  if (value != null) said.unshift(`Expected matches: ${value.toFixed(1)} of ${worth.searched} (${low} to ${high}).`);
  if (worth.told_precision) said.push(`Of these answers ${percent(worth.told_precision[0])} should match.`);
  if (!worth.recalibration) said.push("Too few match, or too few do not, to tell probabilities: only the order is told.");
  return said;
}

/** What was not read, or how it was used; '' if all was read. */
export function restWords(reply, isAsked) {
  const { likeness, query } = reply;
  if (likeness) {
    const told = `highest cosine ${likeness.highest.toFixed(3)}, where ${likeness.needed.toFixed(3)} is needed`;
    return likeness.is_told ? `Likeness to "${likeness.words}" (${told}).`
      : `This model cannot tell "${likeness.words}" from nonsense (${told}): it was not used.`;
  }
  if (query.rest) return `Not read: "${query.rest}". The answers are to the text without it.`;
  return isAsked ? "All words were read: none is left to compare with the images." : "";
}

/** How many studies were searched, and what the prediction sets tell of them. */
export function searchedWords(reply) {
  if (reply.studies == null) return "";
  const { buckets, left_out: left } = reply;
  return `${reply.studies} studies searched (${reply.splits.join(" and ")})` +
    (left ? `; ${left} that the model was trained on are left out` : "") +
    `. By prediction sets of ${buckets.level} %: ${buckets.matches} match, ${buckets.cannot_tell} cannot be told, ${buckets.does_not} do not.`;
}

/** Why there is no answer. */
export function whyNone(reply) {
  if (reply.studies == null && !reply.likeness) return "No other study that the model was not trained on has an image of such a site.";
  if (reply.studies == null) return "These words were not used, and nothing that is graded was asked for.";
  if (!reply.studies) return "The model was trained on all of these studies.";
  if (reply.studies === reply.not_assessable.length) return "No study has images of all sites that are asked for.";
  return "No study is probable enough.";
}

export const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
