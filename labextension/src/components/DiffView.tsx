import * as React from 'react';
import { diff, DiffLine, firstChange } from '../diff';
import { useEnvironment } from './environment';
import { FileLink } from './FileLink';
import { Revealed } from './Revealed';

const SIGNS = { same: ' ', added: '+', removed: '−', gap: '', note: '' };
/** Of more lines only so many are drawn before a person asks for all. */
const MANY_LINES = 1000;

/** The lines of a diff with their numbers. */
export const DiffTable = React.memo(function DiffTable(props: {
  label: string;
  lines: readonly DiffLine[];
}) {
  const { trans } = useEnvironment();
  const { label, lines } = props;
  const [showsAll, showAll] = React.useState(false);
  const isShort = showsAll || lines.length <= MANY_LINES;
  return (
    <>
      <table className="jp-acp-diff-table" aria-label={label}>
        <tbody>
          {(isShort ? lines : lines.slice(0, MANY_LINES)).map((line, index) => (
            <tr key={index} data-type={line.type}>
              <td className="jp-acp-gutter">{line.type === 'gap' ? '⋯' : line.before}</td>
              <td className="jp-acp-gutter">{line.after}</td>
              <td className="jp-acp-sign">{SIGNS[line.type]}</td>
              <td className="jp-acp-line">
                <Revealed text={line.text} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {!isShort && (
        <button className="jp-acp-link jp-acp-show-all" onClick={() => showAll(true)}>
          {trans.__('Show all %1 lines', lines.length)}
        </button>
      )}
    </>
  );
});

/** How many lines were added and removed. */
export function LineCounts({ added, removed }: { added: number; removed: number }): JSX.Element {
  return (
    <span className="jp-acp-counts">
      <span className="jp-acp-added">+{added}</span>{' '}
      <span className="jp-acp-removed">−{removed}</span>
    </span>
  );
}

/** One file's change as an agent tells it; the path opens the file at the first changed line. */
export const DiffView = React.memo(function DiffView(props: {
  path: string;
  before: string;
  after: string;
}) {
  const { trans } = useEnvironment();
  const { path, before, after } = props;
  const change = React.useMemo(() => diff(before, after), [before, after]);
  return (
    <div className="jp-acp-diff" data-path={path}>
      <div className="jp-acp-diff-head">
        <FileLink path={path} line={firstChange(change.lines)} />
        <LineCounts added={change.added} removed={change.removed} />
      </div>
      <DiffTable label={trans.__('Changes of %1', path)} lines={change.lines} />
    </div>
  );
});
