// The search runs in a Worker, which a browser does not start for a page that was opened from a folder. There this class takes
// its place: it runs the script in a hidden frame. Zensical would otherwise load a polyfill of this name from unpkg.com.
if (location.protocol === "file:") {
  window.Worker = class {
    onmessage = null;
    #frame = document.createElement("iframe");
    #started;

    constructor(address) {
      this.#frame.hidden = true;
      this.#frame.srcdoc = "<!doctype html>";
      this.#started = new Promise((resolve, reject) => {
        this.#frame.onload = () => {
          const inside = this.#frame.contentWindow;
          inside.postMessage = data => this.onmessage?.({ data });
          const script = inside.document.createElement("script");
          script.src = new URL(address, document.baseURI);
          script.onload = () => resolve(inside);
          script.onerror = reject;
          inside.document.body.append(script);
        };
      });
      document.body.append(this.#frame);
    }

    postMessage(data) {
      this.#started.then(inside => inside.onmessage?.({ data }));
    }

    terminate() {
      this.#frame.remove();
    }
  };
}
