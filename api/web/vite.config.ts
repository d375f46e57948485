import { defineConfig } from 'vite';

// The pages are served under a content security policy that allows neither inline scripts nor data:
// addresses, so nothing is inlined and the module preload polyfill, an inline script, is left out.
export default defineConfig({
  base: '/',
  build: {
    target: ['chrome123', 'firefox125', 'safari17.5'],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: { input: { index: 'index.html', embed: 'embed.html' } },
  },
  server: {
    proxy: {
      '/api': 'http://localhost:8480',
      '/embed/incidents': { target: 'http://localhost:5173', rewrite: (path) => path.replace('/embed/incidents', '/embed.html') },
    },
  },
});
