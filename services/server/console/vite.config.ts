import { createHash } from "node:crypto";
import { defineConfig } from "vite";
import type { Plugin } from "vite";

/**
 * The files have fixed names, because the program lists them. So that a browser may keep them for a year, the page asks for
 * each with a part of its hash: `console.js?v=…`.
 */
function versioned(): Plugin {
  return {
    name: "versioned",
    apply: "build",
    enforce: "post",
    generateBundle: {
      order: "post",
      handler(_, bundle) {
        const index = bundle["index.html"];
        if (index?.type !== "asset") throw new Error("no index.html was built");
        let html = String(index.source);
        for (const file of Object.values(bundle)) {
          const bytes = file.type === "chunk" ? file.code : file.source;
          const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 16);
          html = html.replaceAll(`/console/${file.fileName}"`, `/console/${file.fileName}?v=${hash}"`);
        }
        index.source = html;
      },
    },
  };
}

export default defineConfig({
  base: "/console/",
  plugins: [versioned()],
  build: {
    target: "es2022",
    // The first of each that has light-dark(): without it the styles would be written twice.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    cssCodeSplit: false,
    rolldownOptions: {
      output: {
        entryFileNames: "assets/console.js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: (file) =>
          file.names.some((name) => name.endsWith(".css")) ? "assets/console.css" : "assets/[name][extname]",
      },
    },
  },
  server: { port: 5173, strictPort: true, proxy: { "/admin": process.env["CONSOLE_API"] ?? "http://127.0.0.1:8080" } },
  test: { include: ["tests/**/*.test.ts"] },
} as Parameters<typeof defineConfig>[0]);
