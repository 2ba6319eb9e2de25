"use strict";
// The class is Swagger UI's own; which it is to be, the reader's system says.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  persistAuthorization: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // The badge would be fetched from another host, with this page's address.
  validatorUrl: null,
});
