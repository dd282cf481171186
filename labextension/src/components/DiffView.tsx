import * as React from 'react';
import { diff } from '../diff';
import { useEnvironment } from './environment';
import { FileLink } from './FileLink';

const SIGNS = { same: ' ', added: '+', removed: '−', gap: '' };

/** One file's change: gutters, hunks, counts; the path opens the file at the first changed line. */
export const DiffView = React.memo(function DiffView(props: {
  path: string;
  before: string;
  after: string;
}) {
  const { trans } = useEnvironment();
  const { path, before, after } = props;
  const change = React.useMemo(() => diff(before, after), [before, after]);
  const first = change.lines.find(line => line.type === 'added')?.after ?? null;
  return (
    <div className="jp-acp-diff" data-path={path}>
      <div className="jp-acp-diff-head">
        <FileLink path={path} line={first} />
        <span className="jp-acp-added">+{change.added}</span>
        <span className="jp-acp-removed">−{change.removed}</span>
      </div>
      <table aria-label={trans.__('Changes of %1', path)}>
        <tbody>
          {change.lines.map((line, index) => (
            <tr key={index} data-type={line.type}>
              <td className="jp-acp-gutter">{line.type === 'gap' ? '⋯' : line.before}</td>
              <td className="jp-acp-gutter">{line.after}</td>
              <td className="jp-acp-sign">{SIGNS[line.type]}</td>
              <td className="jp-acp-line">{line.text}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
});
