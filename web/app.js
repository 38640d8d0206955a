// The page over the service's own HTTP. The address's #fragment is the request that is shown, so
// that a reload, a bookmark or the back button finds it again; without one it is the form.

import { keepKey } from "./api.js";
import { find, show } from "./elements.js";
import { prepareGallery } from "./gallery.js";
import { follow, leave, prepareRequest } from "./request.js";
import { prepareRequests, showRequests } from "./requests.js";
import { prepareUpload } from "./upload.js";

function showView() {
  const id = location.hash.slice(1);
  show({ home: !id, request: id });
  if (find("compare").open) find("compare").close();
  if (id) follow(id);
  else {
    leave();
    showRequests();
  }
}

/** Go to where the address leads, and let a screen reader begin there. */
function turn() {
  showView();
  window.scrollTo(0, 0);
  document.querySelector("main:not([hidden]) h1").focus({ preventScroll: true });
}

keepKey(showView);
prepareUpload((id) => {
  location.hash = id;
});
prepareRequest();
prepareRequests();
prepareGallery();
window.addEventListener("hashchange", turn);
showView();
