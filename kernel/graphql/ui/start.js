"use strict";
const url = "/api/v1/graphql";
const problem = (text, status) => {
  try {
    const found = JSON.parse(text);
    return found.errors || found.data ? found : { errors: [{ message: `${found.title}: ${found.detail}`, extensions: found }] };
  } catch {
    return { errors: [{ message: `The gateway answered ${status}.` }] };
  }
};
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      const lines = rest.slice(0, end).split("\n");
      rest = rest.slice(end + 2);
      if (lines.includes("event: complete")) return;
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (lines.includes("event: next")) yield JSON.parse(data);
    }
  }
}
const subscribes = (params, options) => {
  const found = (options && options.documentAST ? options.documentAST.definitions : []).filter(
    (each) => each.kind === "OperationDefinition" && (!params.operationName || (each.name && each.name.value === params.operationName)),
  );
  return found.some((each) => each.operation === "subscription");
};
async function fetcher(params, options) {
  const stream = subscribes(params, options);
  const response = await fetch(url, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      accept: stream ? "text/event-stream" : "application/graphql-response+json",
      ...((options && options.headers) || {}),
    },
    body: JSON.stringify(params),
  });
  if (stream && response.ok) return events(response);
  return problem(await response.text(), response.status);
}
const welcome = `# GraphQL over the services. Put a token into Headers below ("gateway token mint", or the demo's banner),
# then load the schema anew (the arrows on the left).
query Services {
  gateway {
    version
    services {
      name
      operations
      reason
    }
  }
}
`;
ReactDOM.createRoot(document.getElementById("ui")).render(
  React.createElement(GraphiQL, {
    fetcher,
    defaultQuery: welcome,
    defaultHeaders: '{\n  "Authorization": "Bearer "\n}',
    defaultEditorToolsVisibility: "headers",
    shouldPersistHeaders: false,
  }),
);
