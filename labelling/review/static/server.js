// Questions to the server. The token comes from the page's address and goes into a header.

const token = new URLSearchParams(location.search).get("token") ?? "";
const headers = { "x-wafer-token": token };

// The server cannot be reached; nothing is known of what was asked.
export class Unreachable extends Error {}

// The server said no; `status` 409 means that somebody was faster.
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function answered(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Unreachable(error.message);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const text = typeof said.error === "string" ? said.error : `refused (${response.status})`;
  throw new Refused(response.status, text);
}

export async function ask(path, body) {
  const response = await answered(path, {
    method: "POST",
    headers: { ...headers, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.json();
}

export const start = async () => (await answered("/api/start", { headers })).json();

const KEPT = 60;
const pictures = new Map();

// The address of an image's pixels in this window; the last ones are kept.
export async function picture(image) {
  if (!pictures.has(image)) {
    const path = `/api/image?image=${encodeURIComponent(image)}`;
    const response = await answered(path, { headers });
    pictures.set(image, URL.createObjectURL(await response.blob()));
    if (pictures.size > KEPT) {
      const [oldest, url] = pictures.entries().next().value;
      URL.revokeObjectURL(url);
      pictures.delete(oldest);
    }
  }
  const url = pictures.get(image);
  pictures.delete(image);
  pictures.set(image, url);
  return url;
}
