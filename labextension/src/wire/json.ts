/**
 * JSON, read leniently: a value of the wrong type reads as missing.
 *
 * What comes off the wire is narrowed from `unknown` once, by the modules of this folder; nothing else in this package
 * looks at raw JSON.
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
