// Paper: clips as the film strips that stand beside them, and light colours whatever the screen has.

function strip(picture) {
  // a source for print is fetched too late to be printed: the strip waits in the page, unseen
  const image = document.createElement("img");
  image.className = "clip-strip";
  image.alt = picture.querySelector("img").alt;
  image.addEventListener("load", () => {
    const tall = image.naturalHeight / image.naturalWidth;
    picture.closest("figure").style.setProperty("--tall", tall);
  });
  image.src = picture.querySelector("source").srcset;
  picture.after(image);
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("figure.clip picture").forEach(strip);
});

let onScreen;
addEventListener("beforeprint", () => {
  onScreen = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
});
addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = onScreen;
});
