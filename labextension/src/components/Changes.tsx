import { Dialog, showDialog } from '@jupyterlab/apputils';
import * as React from 'react';
import type { ChangedCell, ChangedFile, Counts, TurnDiff } from '../wire/changes';
import { firstChange } from '../diff';
import { RequestError } from '../errors';
import { shownAtOnce, unified } from '../unified';
import { DiffTable, LineCounts } from './DiffView';
import { Environment, EnvironmentContext, ReadingContext, useEnvironment } from './environment';
import { FileLink } from './FileLink';
import { Revealed } from './Revealed';

/** Of more files only so many are listed before a person asks for all. */
const MANY_FILES = 100;

export function NotKept(): JSX.Element {
  const { trans } = useEnvironment();
  return (
    <div className="jp-acp-dim jp-acp-not-kept">
      {trans.__('The details of this turn are not kept any more.')}
    </div>
  );
}

/** How much a turn has changed; opens the changes. */
export function ChangesLink(props: {
  counts: Counts;
  isOpen: boolean;
  onToggle: () => void;
}): JSX.Element {
  const { trans } = useEnvironment();
  const { counts, isOpen, onToggle } = props;
  return (
    <button className="jp-acp-link jp-acp-show-changes" aria-expanded={isOpen} onClick={onToggle}>
      {trans._n('%1 file changed', '%1 files changed', counts.files)}{' '}
      <LineCounts added={counts.added} removed={counts.removed} />
    </button>
  );
}

/** Is what the turn made of a file still there, and kept well enough to be undone? */
function canRevert(file: ChangedFile): boolean {
  return file.state === 'applied' && !file.large && !file.reported;
}

/** What becomes of a file that is reverted. */
function fate(file: ChangedFile, trans: Environment['trans']): string {
  switch (file.change) {
    case 'added':
      return trans.__('%1 is deleted', file.path);
    case 'deleted':
      return trans.__('%1 is there again', file.path);
    case 'renamed':
      return trans.__('%1 is %2 again', file.path, file.oldPath);
    default:
      return trans.__('%1 is as before', file.path);
  }
}

/** Ask, saying what happens, and revert. */
async function revert(
  environment: Environment,
  turn: string,
  files: readonly ChangedFile[]
): Promise<void> {
  const { chat, trans } = environment;
  const told = files.slice(0, 10);
  const shared = files.filter(file => file.shared);
  const { button } = await showDialog({
    title: trans._n('Revert %1 file', 'Revert %1 files', files.length),
    body: (
      <EnvironmentContext.Provider value={environment}>
        {trans.__('What this turn changed is undone on disk:')}
        <ul>
          {told.map(file => (
            <li key={file.path}>
              <Revealed text={fate(file, trans)} />
            </li>
          ))}
          {files.length > told.length && (
            <li>{trans.__('… and %1 more', files.length - told.length)}</li>
          )}
        </ul>
        {shared.length > 0 && (
          <p>
            {trans.__(
              'Others may have changed %1 at the same time: that is lost too.',
              shared.map(file => file.path).join(', ')
            )}
          </p>
        )}
      </EnvironmentContext.Provider>
    ),
    buttons: [
      Dialog.cancelButton({ label: trans.__('Cancel') }),
      Dialog.warnButton({ label: trans.__('Revert') })
    ]
  });
  if (button.accept) {
    await chat.revert(
      turn,
      files.map(file => file.path)
    );
  }
}

/** The diff of a text, empty where there is nothing to show. */
function TextDiff({ label, diff }: { label: string; diff: string }) {
  const { trans } = useEnvironment();
  const { lines, executable } = React.useMemo(() => unified(diff), [diff]);
  return (
    <>
      {executable !== null && (
        <div className="jp-acp-dim jp-acp-remark">
          {executable ? trans.__('Can be executed now') : trans.__('Cannot be executed any more')}
        </div>
      )}
      {lines.length > 0 && <DiffTable label={label} lines={lines} />}
    </>
  );
}

function CellView({ cell }: { cell: ChangedCell }) {
  const { trans } = useEnvironment();
  const place = cell.index + 1;
  const titles = {
    added: trans.__('Cell %1, new', place),
    removed: trans.__('Cell %1 before, deleted', place),
    modified: trans.__('Cell %1', place)
  };
  const title = titles[cell.change];
  return (
    <div className="jp-acp-cell" data-change={cell.change} data-cell-type={cell.cellType}>
      <div className="jp-acp-cell-head">
        {title} <span className="jp-acp-dim">{cell.cellType}</span>
      </div>
      {cell.source && <TextDiff label={trans.__('Source of %1', title)} diff={cell.source} />}
      {cell.outputs && (
        <div className="jp-acp-outputs">
          <div className="jp-acp-dim jp-acp-remark">{trans.__('Outputs')}</div>
          <TextDiff label={trans.__('Outputs of %1', title)} diff={cell.outputs} />
        </div>
      )}
      {cell.metadata && (
        <div className="jp-acp-dim jp-acp-remark">{trans.__('Its metadata differs')}</div>
      )}
    </div>
  );
}

/** A file's lines, or the cells of a notebook, whose lines can be had instead. */
function FileBody({ file }: { file: ChangedFile }) {
  const { trans } = useEnvironment();
  const { path, diff, cells, truncated } = file;
  const [isRaw, setRaw] = React.useState(false);
  return (
    <div className="jp-acp-diff-body">
      {cells && (
        <button className="jp-acp-link jp-acp-show-raw" onClick={() => setRaw(!isRaw)}>
          {isRaw ? trans.__('Show cells') : trans.__('Show raw text')}
        </button>
      )}
      {cells && !isRaw ? (
        cells.length > 0 ? (
          cells.map(cell => <CellView key={`${cell.change}-${cell.index}`} cell={cell} />)
        ) : (
          <div className="jp-acp-dim jp-acp-remark">
            {trans.__('No cell differs, except for its count of executions')}
          </div>
        )
      ) : (
        <>
          <TextDiff label={trans.__('Changes of %1', path)} diff={diff} />
          {truncated && (
            <div className="jp-acp-dim jp-acp-remark">{trans.__('The rest is left out.')}</div>
          )}
        </>
      )}
    </div>
  );
}

/** Where a file is now, if it is there. */
function place(file: ChangedFile): string | null {
  if (file.state === 'reverted') {
    return file.change === 'added' ? null : (file.oldPath ?? file.path);
  }
  return file.change === 'deleted' && file.state === 'applied' ? null : file.path;
}

function FileChange(props: {
  turn: string;
  file: ChangedFile;
  isFirst: boolean;
  isRunning: boolean;
}) {
  const environment = useEnvironment();
  const { trans, chat } = environment;
  const { turn, file, isFirst, isRunning } = props;
  const { path, oldPath } = file;
  const [isOpen, setOpen] = React.useState(isFirst);
  const isReading = React.useContext(ReadingContext);
  React.useLayoutEffect(isReading, [isOpen]);
  const { lines, executable } = React.useMemo(() => unified(file.diff), [file.diff]);
  const hasBody = lines.length > 0 || executable !== null || file.cells !== null;
  const where = place(file);
  const marks = [
    file.change === 'added' && trans.__('new'),
    file.change === 'deleted' && trans.__('deleted'),
    file.binary && trans.__('binary'),
    file.large && trans.__('too large to show'),
    file.truncated && trans.__('shortened'),
    file.shared && trans.__('shared: others may have changed it too'),
    file.reported && trans.__('as the agent reports it'),
    file.state === 'reverted' && trans.__('reverted'),
    file.state === 'changed' && trans.__('changed since')
  ].filter(Boolean);
  return (
    <div
      className="jp-acp-diff"
      data-path={path}
      data-change={file.change}
      data-state={file.state}
      role="listitem"
    >
      <div className="jp-acp-diff-head">
        <button
          className="jp-acp-fold"
          disabled={!hasBody}
          aria-expanded={isOpen && hasBody}
          aria-label={trans.__('Changes of %1', path)}
          onClick={() => setOpen(!isOpen)}
        >
          {!hasBody ? '·' : isOpen ? '▾' : '▸'}
        </button>
        <span className="jp-acp-diff-title">
          {where === null ? (
            <span className="jp-acp-gone">
              <Revealed text={path} />
            </span>
          ) : (
            <FileLink path={where} line={file.cells ? null : firstChange(lines)} />
          )}
          {oldPath !== null && (
            <span className="jp-acp-dim">
              {' '}
              {trans.__('renamed from')} <Revealed text={oldPath} />
            </span>
          )}{' '}
          {marks.map((mark, index) => (
            <span key={index} className="jp-acp-mark">
              {mark}
            </span>
          ))}
        </span>
        {file.added + file.removed > 0 && <LineCounts added={file.added} removed={file.removed} />}
        {chat.isCollaborator && !isRunning && canRevert(file) && (
          <button
            className="jp-acp-link jp-acp-revert-file"
            aria-label={trans.__('Revert %1', path)}
            onClick={() => void revert(environment, turn, [file])}
          >
            {trans.__('Revert')}
          </button>
        )}
      </div>
      {isOpen && hasBody && <FileBody file={file} />}
    </div>
  );
}

function Files(props: { turn: string; diff: TurnDiff; isRunning: boolean }) {
  const environment = useEnvironment();
  const { trans, chat } = environment;
  const { turn, diff, isRunning } = props;
  const [showsAll, showAll] = React.useState(false);
  const [first] = React.useState(() => shownAtOnce(diff.files));
  const files = showsAll ? diff.files : diff.files.slice(0, MANY_FILES);
  const revertible = diff.files.filter(canRevert);
  return (
    <>
      {diff.incomplete !== null && (
        <div className="jp-acp-notice jp-acp-incomplete" data-severity="warning">
          {trans.__('Not all changes are known: %1.', diff.incomplete)}
        </div>
      )}
      {diff.files.length === 0 && diff.incomplete === null && (
        <div className="jp-acp-dim jp-acp-remark">{trans.__('No file was changed.')}</div>
      )}
      {chat.isCollaborator && !isRunning && revertible.length > 1 && (
        <div className="jp-acp-changes-tools">
          <button
            className="jp-acp-link jp-acp-revert-all"
            onClick={() => void revert(environment, turn, revertible)}
          >
            {trans.__('Revert all')}
          </button>
        </div>
      )}
      <div role="list">
        {files.map(file => (
          <FileChange
            key={file.path}
            turn={turn}
            file={file}
            isFirst={first.has(file.path)}
            isRunning={isRunning}
          />
        ))}
      </div>
      {files.length < diff.files.length && (
        <button className="jp-acp-link jp-acp-show-all" onClick={() => showAll(true)}>
          {trans.__('Show all %1 files', diff.files.length)}
        </button>
      )}
    </>
  );
}

/** What a turn has changed, by file. Loaded when it is opened. */
export const ChangesView = React.memo(function ChangesView(props: {
  turn: string;
  diff: TurnDiff | Error | undefined;
  isRunning?: boolean;
}) {
  const { trans, chat } = useEnvironment();
  const { turn, diff, isRunning = false } = props;
  const isMissing = diff === undefined;
  React.useEffect(() => {
    if (isMissing) {
      void chat.details.loadDiff(turn);
    }
  }, [chat, turn, isMissing]);
  // files change: who opens it again wants to see what they are then
  React.useEffect(() => () => chat.details.forgetDiff(turn), [chat, turn]);
  return (
    <section className="jp-acp-changes" aria-label={trans.__('Changed files')}>
      {isMissing ? (
        <span className="jp-acp-dim">{trans.__('Loading…')}</span>
      ) : !(diff instanceof Error) ? (
        <Files turn={turn} diff={diff} isRunning={isRunning} />
      ) : diff instanceof RequestError && diff.reason === 'not_kept' ? (
        <NotKept />
      ) : (
        <>
          <span className="jp-acp-error-text">{diff.message}</span>
          <button className="jp-acp-link" onClick={() => void chat.details.loadDiff(turn)}>
            {trans.__('Try again')}
          </button>
        </>
      )}
    </section>
  );
});

/** What the running turn has changed by the time that a person looks. */
export function ChangesSoFar(props: {
  turn: string;
  diff: TurnDiff | Error | undefined;
}): JSX.Element {
  const { trans } = useEnvironment();
  const [isOpen, setOpen] = React.useState(false);
  return (
    <>
      <button
        className="jp-acp-link jp-acp-show-changes"
        aria-expanded={isOpen}
        onClick={() => setOpen(!isOpen)}
      >
        {trans.__('Changes so far')}
      </button>
      {isOpen && <ChangesView turn={props.turn} diff={props.diff} isRunning />}
    </>
  );
}
