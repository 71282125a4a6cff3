// The parts of the viewer, put together. If anything fails, the notice that there is no viewer stays.

function startViewer() {
  const data = JSON.parse(byId("viewer-data").textContent);
  const chosen = makeSignal();
  const filtered = makeSignal();
  startSliders(data, chosen);
  const choose = startSubjects(data, chosen, filtered);
  startScatter(data, chosen, filtered, choose);
  startFilters(data, filtered)();
  byId("viewer").hidden = false;
  byId("viewer-off").hidden = true;
}

startViewer();
