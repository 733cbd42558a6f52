// Served over HTTP, the app keeps itself for days without a network. From a folder there is nothing to keep.
Quiet.offline = {
  start() {
    if ("serviceWorker" in navigator && location.protocol.startsWith("http")) {
      navigator.serviceWorker.register("worker.js").catch((error) => console.warn("not kept for offline use:", error));
    }
  },
};
