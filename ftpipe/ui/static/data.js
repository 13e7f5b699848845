// The data page: sends a dropped file, and moves between rows with keys.
"use strict";

const drop = document.getElementById("drop");
const input = document.getElementById("file");

function sendFile(file) {
  const message = document.getElementById("drop-message");
  const progress = document.getElementById("drop-progress");
  if (file.size > Number(drop.dataset.limit)) {
    message.textContent = "The file is too large. Put it into the project's folder, where it is listed.";
    return;
  }
  if (!input.accept.split(",").some((suffix) => file.name.toLowerCase().endsWith(suffix))) {
    message.textContent = `${file.name} is not named like a dataset. Its name has to end with one of ${input.accept}.`;
    return;
  }
  const request = new XMLHttpRequest();
  request.open("POST", `${drop.dataset.action}?name=${encodeURIComponent(file.name)}`);
  request.setRequestHeader("x-csrf-token", drop.dataset.token);
  request.setRequestHeader("content-type", "application/octet-stream");
  request.upload.addEventListener("progress", (event) => {
    if (event.lengthComputable) progress.value = (100 * event.loaded) / event.total;
  });
  request.addEventListener("load", () => {
    if (request.status === 201) {
      location.assign(JSON.parse(request.responseText).location);
      return;
    }
    progress.hidden = true;
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    const reason = page.querySelector("h1");
    message.textContent = reason ? reason.textContent : `The file was not taken (status ${request.status}).`;
  });
  request.addEventListener("error", () => {
    progress.hidden = true;
    message.textContent = "The server does not answer. If it was stopped, start `ftpipe ui` again.";
  });
  message.textContent = `Sending ${file.name} …`;
  progress.hidden = false;
  request.send(file);
}

if (drop && input) {
  input.addEventListener("change", () => { if (input.files.length) sendFile(input.files[0]); });
  drop.addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) sendFile(event.dataTransfer.files[0]);
  });
}

function selectRow(link) {
  for (const other of document.querySelectorAll("[data-row][aria-current]")) {
    other.removeAttribute("aria-current");
    other.closest("tr").classList.remove("current");
  }
  link.setAttribute("aria-current", "true");
  link.closest("tr").classList.add("current");
}
let isRowChosen = false;
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-row]");
  if (!link) return;
  selectRow(link);
  isRowChosen = true;
});
// Where the row is below the list, as on a narrow screen, go there; a link of the row leads back.
document.addEventListener("htmx:after:swap", () => {
  const row = document.getElementById("row");
  if (!isRowChosen || !row) return;
  isRowChosen = false;
  if (getComputedStyle(row).position === "sticky") return;
  row.focus({ preventScroll: true });
  row.scrollIntoView();
});
document.addEventListener("keydown", (event) => {
  if (!["j", "k"].includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const links = [...document.querySelectorAll("[data-row]")];
  if (!links.length) return;
  const at = links.findIndex((link) => link.hasAttribute("aria-current"));
  const next = links[Math.min(links.length - 1, Math.max(0, at + (event.key === "j" ? 1 : -1)))];
  event.preventDefault();
  next.focus();
  next.click();
});
