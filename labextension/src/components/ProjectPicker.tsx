import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { ProjectInfo } from '../wire/projects';

/** Which project's chats are listed, how it is, and what its members can do about that. */
export function ProjectPicker(props: {
  projects: readonly ProjectInfo[];
  chosen: ProjectInfo | null;
  lost: string | null;
  trans: TranslationBundle;
  onChoose: (project: string) => void;
  onStart: () => void;
  onStop: () => void;
  onLog: () => void;
}): JSX.Element {
  const { projects, chosen, lost, trans } = props;
  const states: { [state: string]: string } = {
    stopped: trans.__('stopped'),
    starting: trans.__('starting…'),
    running: trans.__('running'),
    failed: trans.__('failed')
  };
  const isOwned = chosen?.kind === 'container' && chosen.role === 'owner';
  const canBeStarted = chosen?.state === 'stopped' || chosen?.state === 'failed';
  return (
    <section className="jp-acp-projects" aria-label={trans.__('Project')}>
      {lost !== null && (
        <div className="jp-acp-error" role="alert">
          {trans.__('The project %1 is gone, or you are not a member of it any more.', lost)}
        </div>
      )}
      <select
        className="jp-acp-project-select"
        aria-label={trans.__('Project')}
        value={chosen?.id ?? ''}
        onChange={event => props.onChoose(event.target.value)}
      >
        {projects.map(project => (
          <option key={project.id} value={project.id}>
            {project.state === 'running'
              ? project.name
              : `${project.name} (${states[project.state] ?? project.state})`}
          </option>
        ))}
      </select>
      {chosen ? (
        <div className="jp-acp-project-state" data-project-id={chosen.id} data-state={chosen.state}>
          <span className="jp-acp-status" data-state={chosen.state}>
            {states[chosen.state] ?? chosen.state}
          </span>
          {chosen.role === 'viewer' && (
            <span className="jp-acp-dim">{trans.__('You can read this project')}</span>
          )}
          <span className="jp-acp-spacer" />
          {isOwned && (
            <button className="jp-acp-link" onClick={props.onLog}>
              {trans.__('Log')}
            </button>
          )}
          {canBeStarted && chosen.role !== 'viewer' && (
            <button className="jp-acp-button" onClick={props.onStart}>
              {trans.__('Start')}
            </button>
          )}
          {isOwned && chosen.state === 'running' && (
            <button className="jp-acp-button" onClick={props.onStop}>
              {trans.__('Stop')}
            </button>
          )}
        </div>
      ) : (
        <div className="jp-acp-dim">{trans.__('You are a member of no project.')}</div>
      )}
      {chosen?.state === 'failed' && chosen.error && (
        <div className="jp-acp-error" role="alert">
          {chosen.error}
        </div>
      )}
      {chosen?.state === 'running' && chosen.warning && (
        <div className="jp-acp-dim" role="status">
          {chosen.warning}
        </div>
      )}
      {chosen?.usage && (
        <div className="jp-acp-dim">
          {chosen.usage.limit > 0
            ? trans.__(
                '%1 of %2 tokens used today',
                chosen.usage.today.toLocaleString(),
                chosen.usage.limit.toLocaleString()
              )
            : trans.__('%1 tokens used today', chosen.usage.today.toLocaleString())}
        </div>
      )}
    </section>
  );
}
