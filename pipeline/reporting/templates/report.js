"use strict";
// Draws every plot of the page. Colours are names of the style sheet, so nothing is drawn anew when
// they change. Expressions are interpreted (`ast`): the page allows no code made from text.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const options = {
    actions: false,
    ast: true,
    config: read("plot-config"),
    defaultStyle: false,
    renderer: "svg",
    tooltip: { disableDefaultStyle: true },
  };
  for (const place of document.querySelectorAll("[data-plot]")) {
    vegaEmbed(place, read("spec-" + place.dataset.plot), options).then(
      () => { place.dataset.state = "drawn"; },
      (error) => {
        place.dataset.state = "failed";
        place.textContent = "This plot could not be drawn; its numbers are below.";
        console.error(place.dataset.plot, error);
      },
    );
  }
  const themes = document.querySelector(".theme");
  themes.hidden = false;
  themes.addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
  });
})();
