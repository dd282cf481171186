import * as React from 'react';

// strokes in a square of 16: drawn by us, because not every machine has a font with pictures
const PATHS: { [name: string]: string } = {
  read: 'M4 2h5l3 3v9H4zM9 2v3h3M6 8h4M6 11h4',
  edit: 'M3 13l1-3 7-7 2 2-7 7z',
  delete: 'M3 4h10M6 4V2h4v2M5 4v10h6V4',
  move: 'M3 8h9M9 5l3 3-3 3',
  search: 'M7 3a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM10 10l4 4',
  execute: 'M3 4l4 4-4 4M8 12h5',
  think: 'M8 2a4 4 0 0 0-2 7v2h4V9a4 4 0 0 0-2-7zM6 14h4',
  fetch: 'M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM2 8h12M8 2c-4 4-4 8 0 12 4-4 4-8 0-12',
  switch_mode: 'M3 6h9M10 4l2 2-2 2M13 10H4M6 8l-2 2 2 2',
  other: 'M8 2l5 3v6l-5 3-5-3V5z',
  '+1': 'M2 7h3v6H2zM5 7l3-5c1 0 2 1 1 3v1h4l1 1-1 5-1 1H5',
  '-1': 'M2 9h3V3H2zM5 9l3 5c1 0 2-1 1-3v-1h4l1-1-1-5-1-1H5'
};

/** A small picture; says nothing to those who listen. */
export function Icon({ name }: { name: string }): JSX.Element {
  return (
    <svg className="jp-acp-icon" width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name] ?? PATHS.other} />
    </svg>
  );
}
