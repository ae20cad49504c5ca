import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';
import { tables } from './tables.js';

// A gateway, or what stands before several: that of `make demo` by default.
const gateway = process.env.GATEWAY ?? 'http://localhost:8000';
const proxy = {
  '/rowcast': { target: gateway, ws: true },
  '/api': gateway,
};

export default defineConfig({
  plugins: [react(), tables(process.env.DATABASE_URL)],
  server: { proxy },
  preview: { proxy },
  // The client is linked from two folders up, which may have a React of its own.
  resolve: { dedupe: ['react'] },
});
