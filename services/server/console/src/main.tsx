import { render } from "preact";

import { takeFragment } from "./api/session";
import { App } from "./app";
import { followLinks } from "./router";
import "./style.css";
import { restoreTheme } from "./ui/theme";

takeFragment();
restoreTheme();
followLinks();
const root = document.getElementById("console");
if (root) render(<App />, root);
