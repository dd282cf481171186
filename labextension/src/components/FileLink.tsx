import * as React from 'react';
import { useEnvironment } from './environment';
import { Revealed } from './Revealed';

/** A file of the project; opens at the line, where it is one of Jupyter's. */
export function FileLink({ path, line }: { path: string; line: number | null }): JSX.Element {
  const { chat, openFile } = useEnvironment();
  const cwd = chat.state?.session.cwd ?? '';
  const shown = cwd && path.startsWith(`${cwd}/`) ? path.slice(cwd.length + 1) : path;
  const text = <Revealed text={line === null ? shown : `${shown}:${line}`} />;
  if (openFile === null) {
    return (
      <span className="jp-acp-file-name" title={path} data-path={path}>
        {text}
      </span>
    );
  }
  return (
    <button
      className="jp-acp-file-link"
      title={path}
      data-path={path}
      onClick={() => openFile(path, line)}
    >
      {text}
    </button>
  );
}
