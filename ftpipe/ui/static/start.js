// The start page: another provider or dataset has other base models and fields, so the whole page is loaded.
"use strict";

document.getElementById("start")?.addEventListener("change", (event) => {
  if (["provider", "data", "method"].includes(event.target.name)) event.target.form.requestSubmit();
});
