/**
 * JSON, read leniently: a value of the wrong type reads as missing.
 *
 * What comes off the wire is narrowed from `unknown` once, by the modules of this folder. What has no type of ours (the
 * input of a tool, the form of an agent, what the browser keeps) is read by these functions where it is used.
 */

export type Json = { readonly [key: string]: unknown };

const NOTHING: Json = {};

export function object(value: unknown): Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Json)
    : NOTHING;
}

export function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

export function text(value: unknown): string {
  return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : '';
}

export function number(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

export function flag(value: unknown): boolean | null {
  return typeof value === 'boolean' ? value : null;
}

export function present(value: unknown): boolean {
  return value !== undefined && value !== null;
}
