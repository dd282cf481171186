/** What a turn has changed in the project's files. */

import { list, number, object, text } from './json';

/** How much a turn has changed: files, and lines of them. */
export interface Counts {
  readonly files: number;
  readonly added: number;
  readonly removed: number;
}

/** A cell of a notebook that differs; `source` and `outputs` are unified diffs, empty where they do not. */
export interface ChangedCell {
  readonly change: 'added' | 'modified' | 'removed';
  /** Its place in the notebook, from 0; in the one before where it was removed. */
  readonly index: number;
  readonly cellType: string;
  readonly source: string;
  readonly outputs: string;
  readonly metadata: boolean;
}

export interface ChangedFile {
  readonly path: string;
  /** Its name before, where it was renamed. */
  readonly oldPath: string | null;
  readonly change: 'added' | 'modified' | 'deleted' | 'renamed';
  readonly added: number;
  readonly removed: number;
  readonly binary: boolean;
  readonly large: boolean;
  /** Others may have changed it too. */
  readonly shared: boolean;
  /** Nobody saw it: the agent says so. */
  readonly reported: boolean;
  /** The unified diff, whose end may be left out. */
  readonly diff: string;
  readonly truncated: boolean;
  /** What has become of it since the turn. */
  readonly state: 'applied' | 'reverted' | 'changed';
  /** Of a notebook, the cells that differ. */
  readonly cells: readonly ChangedCell[] | null;
}

export interface TurnDiff {
  readonly files: readonly ChangedFile[];
  /** Why not all changes are known. */
  readonly incomplete: string | null;
}

export function counts(value: unknown): Counts | null {
  const raw = object(value);
  const files = number(raw.files);
  return files === null
    ? null
    : { files, added: number(raw.added) ?? 0, removed: number(raw.removed) ?? 0 };
}

function changedCell(value: unknown): ChangedCell {
  const raw = object(value);
  return {
    change: raw.change === 'added' || raw.change === 'removed' ? raw.change : 'modified',
    index: number(raw.index) ?? 0,
    cellType: text(raw.cell_type),
    source: text(raw.source),
    outputs: text(raw.outputs),
    metadata: raw.metadata === true
  };
}

function changedFile(value: unknown): ChangedFile {
  const raw = object(value);
  const { change, state } = raw;
  return {
    path: text(raw.path),
    oldPath: text(raw.old_path) || null,
    change:
      change === 'added' || change === 'deleted' || change === 'renamed' ? change : 'modified',
    added: number(raw.added) ?? 0,
    removed: number(raw.removed) ?? 0,
    binary: raw.binary === true,
    large: raw.large === true,
    shared: raw.shared === true,
    reported: raw.reported === true,
    diff: text(raw.diff),
    truncated: raw.truncated === true,
    // one that we do not know cannot be undone
    state: state === 'applied' || state === 'reverted' ? state : 'changed',
    cells: Array.isArray(raw.cells) ? raw.cells.map(changedCell) : null
  };
}

/** What a turn has changed. */
export function turnDiff(value: unknown): TurnDiff {
  const raw = object(value);
  return { files: list(raw.files).map(changedFile), incomplete: text(raw.incomplete) || null };
}
