"use strict";
// The class is Swagger UI's own; which it is to be, the reader's system says.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
const wanted = new URLSearchParams(location.search).get("version");
const source = "/openapi.json" + (wanted ? "?version=" + encodeURIComponent(wanted) : "");
// The versions of the services' APIs, where there are several: each has a document of its own.
const choose = (documents) => {
  const list = document.createElement("select");
  for (const { version } of documents) {
    list.append(new Option(version, version, false, version === (wanted || "v1")));
  }
  list.addEventListener("change", () => { location.search = "?version=" + encodeURIComponent(list.value); });
  const label = document.createElement("label");
  label.className = "versions";
  label.append("Version ", list);
  document.body.prepend(label);
};
window.ui = SwaggerUIBundle({
  url: source,
  dom_id: "#ui",
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  persistAuthorization: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // The badge would be fetched from another host, with this page's address.
  validatorUrl: null,
  // From the browser's own copy, which is revalidated only.
  onComplete: async () => {
    const found = (await (await fetch(source)).json())["x-versions"] || [];
    if (found.length > 1 && !document.querySelector(".versions")) choose(found);
  },
});
