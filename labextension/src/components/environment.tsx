import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { Chat } from '../chat';
import type { TerminalTabs } from '../terminals';

/** What every component of a chat may use. */
export interface Environment {
  readonly chat: Chat;
  readonly trans: TranslationBundle;
  readonly rendermime: IRenderMimeRegistry;
  /** Open a file of the project, at a line counted from 1; null where Jupyter does not serve its files. */
  readonly openFile: ((path: string, line: number | null) => void) | null;
  /** Null where its commands do not run in terminals of Jupyter. */
  readonly tabs: TerminalTabs | null;
}

export const EnvironmentContext = React.createContext<Environment | null>(null);

export function useEnvironment(): Environment {
  const environment = React.useContext(EnvironmentContext);
  if (!environment) {
    throw new Error('a component of a chat is drawn outside of one');
  }
  return environment;
}

/** To be called where something unfolds that a person is going to read: it stays where it is, the end is not followed. */
export const ReadingContext = React.createContext<() => void>(() => undefined);
