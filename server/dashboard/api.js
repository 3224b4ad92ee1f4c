// Talking to the API: JSON, problems as errors, server-sent events by fetch (EventSource cannot send a token).

let askForToken = async () => "";
export const onUnauthorised = (ask) => (askForToken = ask);

async function request(method, path, body, signal, headers = {}) {
  const token = sessionStorage.getItem("fedcosim-token");
  const response = await fetch(`v1/${path}`, {
    method, signal,
    headers: { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.status === 401) {
    sessionStorage.setItem("fedcosim-token", await askForToken());
    return request(method, path, body, signal, headers);
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.detail ?? `${response.status} ${response.statusText}`);
    error.problems = problem.errors?.length ? problem.errors : [error.message];
    throw error;
  }
  return response;
}

export async function api(method, path, body, signal) {
  const response = await request(method, path, body, signal);
  return response.headers.get("content-type")?.includes("json") ? response.json() : response.blob();
}

export async function* follow(path, last, signal) {
  while (!signal.aborted) {
    try {
      const response = await request("GET", path, undefined, signal, last ? { "Last-Event-ID": String(last) } : {});
      for await (const event of parse(response.body.pipeThrough(new TextDecoderStream()))) {
        last = event.id ?? last;
        yield event;
        if (event.event === "end") return;
      }
    } catch (error) {
      if (signal.aborted || error.problems) throw error;
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

async function* parse(stream) {
  let rest = "";
  for await (const text of stream) {
    const parts = (rest + text).replaceAll("\r\n", "\n").split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").filter((line) => line && !line.startsWith(":")).map((line) => {
        const at = line.indexOf(":");
        return [line.slice(0, at), line.slice(at + 1).trimStart()];
      }));
      if ("data" in fields) yield { event: fields.event, id: fields.id, data: JSON.parse(fields.data) };
    }
  }
}
