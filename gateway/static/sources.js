// Where an answer comes from: the passages the model was given, and in them the sentence most like the answer.

const words = (text) => new Set(text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []);

/** The sentence of `text` that shares most of the answer's words, as [start, end] in it; null when none shares half. */
export function likest(text, answer) {
  const wanted = words(answer);
  let best = null;
  let most = wanted.size / 2;
  for (const found of text.matchAll(/[^\s.!?][^.!?\n]*[.!?]*["')\]]*/gu)) {
    const own = words(found[0]);
    const shared = [...wanted].filter((word) => own.has(word)).length;
    if (shared > most) {
      most = shared;
      best = [found.index, found.index + found[0].length];
    }
  }
  return best;
}

/** Fill `place` with `knowledge`, the passages of `answer` marked; return the first mark.
 *
 * Offsets count characters as Python does; JavaScript's strings count some of them twice.
 */
export function show(place, knowledge, answer) {
  const characters = Array.from(knowledge);
  const text = (start, end) => characters.slice(start, end).join("");
  const passages = [...(answer?.passages ?? [])].sort((one, other) => one.start - other.start);
  place.replaceChildren();
  let at = 0;
  for (const { start, end, score } of passages) {
    place.append(text(at, start));
    const passage = text(start, end);
    const [from, to] = likest(passage, answer.response) ?? [0, 0];
    const strong = document.createElement("strong");
    strong.textContent = passage.slice(from, to);
    const mark = document.createElement("mark");
    if (score === null) {
      // All of it was given, nothing was chosen: the sentence alone tells something.
      mark.append(strong);
      place.append(passage.slice(0, from), mark, passage.slice(to));
    } else {
      mark.append(passage.slice(0, from), strong, passage.slice(to));
      place.append(mark);
    }
    at = end;
  }
  place.append(text(at, characters.length));
  return place.querySelector("strong:not(:empty)") ?? place.querySelector("mark:not(:empty)");
}
