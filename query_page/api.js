// The server's JSON API. Errors are Error objects whose message is for a person.

/** The kind of the window's event that says that the run was evaluated again: what is shown is of its old index. */
export const RENEWED = "renewed";
let index = null;

async function reply(response) {
  const own = response.headers.get("Lumbar-Index");
  if (own && index && own !== index) dispatchEvent(new Event(RENEWED));
  index = own ?? index;
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error;
  } catch { /* the text is the message */ }
  throw new Error(message || `the server answered ${response.status}`);
}

/** Send a request; once more, after the time that the server asks for, if it is busy. */
async function sent(path, options) {
  const response = await fetch(path, options);
  if (response.status !== 503) return response;
  const seconds = Number(response.headers.get("Retry-After")) || 1;
  await new Promise((done) => setTimeout(done, 1000 * Math.min(seconds, 10)));
  return fetch(path, options);
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value != null && value !== ""));
  return (await reply(await sent(`api/${path}?${query}`))).json();
}

export async function post(path, content) {
  const response = await sent(`api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
  const answered = await reply(response);
  return answered.headers.get("Content-Type").startsWith("application/json") ? answered.json() : answered.text();
}

export const picture = (split, number) => `api/image/${encodeURIComponent(split)}/${number}`;

export const slicePicture = (split, study, series, instance) =>
  `api/slice/${encodeURIComponent(split)}/${study}/${series}/${instance}`;
