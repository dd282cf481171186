import * as React from 'react';
import { object, text } from '../wire/json';
import type { PermissionOption, PermissionRequest } from '../wire/permissions';
import { isSafeLink } from '../visible';
import { DiffView } from './DiffView';
import { ElicitationForm } from './ElicitationForm';
import { useEnvironment } from './environment';
import { FileLink } from './FileLink';
import { Revealed } from './Revealed';
import { otherPlaces, pretty } from './ToolCard';

/** The key that chooses an option, by what the option means. */
const KEYS: { [kind: string]: string } = {
  allow_once: 'a',
  allow_always: 'A',
  reject_once: 'r',
  reject_always: 'R'
};

/** The option that `key` chooses: the first of its kind, so that a key never means two things. */
export function optionForKey(
  options: readonly PermissionOption[],
  key: string
): PermissionOption | undefined {
  return options.find(option => KEYS[option.kind] === key);
}

function isLasting(option: PermissionOption): boolean {
  return option.kind.endsWith('_always');
}

/** The command as it will be run: a line for a shell, or the words of an argument list. */
function commandOf(input: unknown): string {
  const { command, cmd, args } = object(input);
  const words = command ?? cmd;
  const list = (value: unknown) => (Array.isArray(value) ? value.map(text) : []);
  if (Array.isArray(words)) {
    return words.map(word => JSON.stringify(text(word))).join(' ');
  }
  return [text(words), ...list(args).map(word => JSON.stringify(word))].filter(Boolean).join(' ');
}

/** What an agent asks, whole, and the answers that it offers. */
export function PermissionCard({ request }: { request: PermissionRequest }): JSX.Element {
  const { trans, chat } = useEnvironment();
  const isFixed = chat.answering.has(request.id) || !chat.isCollaborator;
  const { toolCall, elicitation, options } = request;
  const answer = (option: string) => void chat.answer(request.id, option);
  const command = commandOf(toolCall.rawInput);
  const places = otherPlaces(toolCall);
  const input = object(toolCall.rawInput);
  const cwd = text(input.cwd) || text(input.workdir) || chat.state?.session.cwd || '';
  const accept = options.find(option => option.kind.startsWith('allow'));
  const isForm = elicitation?.mode === 'form';
  const buttons = options.map(option => (
    <button
      key={option.id}
      type="button"
      className="jp-acp-button jp-acp-option"
      data-option-id={option.id}
      data-kind={option.kind}
      disabled={isFixed}
      onClick={() => answer(option.id)}
    >
      <Revealed text={option.name} />
      {isLasting(option) && <span className="jp-acp-lasting">{trans.__('lasting')}</span>}
      {KEYS[option.kind] && optionForKey(options, KEYS[option.kind]!) === option && (
        <kbd>{KEYS[option.kind]}</kbd>
      )}
    </button>
  ));
  return (
    <section
      className="jp-acp-permission"
      data-permission-id={request.id}
      data-kind={request.kind}
      aria-label={trans.__('The agent asks')}
    >
      <div className="jp-acp-card-title">
        {elicitation ? trans.__('The agent asks you') : trans.__('The agent asks for permission')}
      </div>
      {elicitation ? (
        <div className="jp-acp-asked">
          <Revealed text={elicitation.message} />
        </div>
      ) : (
        <>
          <div className="jp-acp-asked">
            <Revealed text={toolCall.title} />
          </div>
          {command && (
            <pre className="jp-acp-command">
              <Revealed text={command} />
            </pre>
          )}
          <dl>
            {(command || toolCall.kind === 'execute') && (
              <>
                <dt>{trans.__('In')}</dt>
                <dd>
                  <Revealed text={cwd} />
                </dd>
              </>
            )}
            {places.length > 0 && (
              <>
                <dt>{trans.__('Files')}</dt>
                <dd>
                  {places.map((place, index) => (
                    <FileLink key={index} path={place.path} line={place.line} />
                  ))}
                </dd>
              </>
            )}
          </dl>
          {Object.keys(input).length > 0 && (
            <details open={!command}>
              <summary>{trans.__('Arguments')}</summary>
              <pre className="jp-acp-raw">
                <Revealed text={pretty(toolCall.rawInput)} />
              </pre>
            </details>
          )}
          {toolCall.content.map((item, index) =>
            item.type === 'diff' ? (
              <DiffView key={index} path={item.path} before={item.before} after={item.after} />
            ) : item.type === 'text' ? (
              <pre key={index} className="jp-acp-raw">
                <Revealed text={item.text} />
              </pre>
            ) : null
          )}
        </>
      )}
      {elicitation?.mode === 'url' && (
        <div className="jp-acp-asked">
          {isSafeLink(elicitation.url) ? (
            <a href={elicitation.url} target="_blank" rel="noopener noreferrer">
              <Revealed text={elicitation.url} />
            </a>
          ) : (
            <Revealed text={elicitation.url} />
          )}
        </div>
      )}
      {isForm && accept ? (
        <ElicitationForm
          schema={elicitation.schema}
          disabled={isFixed}
          accept={accept.name}
          onAccept={content => void chat.answer(request.id, accept.id, content)}
        >
          {buttons.filter((_, index) => options[index] !== accept)}
        </ElicitationForm>
      ) : (
        <div className="jp-acp-options">{buttons}</div>
      )}
      {options.some(isLasting) && (
        <div className="jp-acp-dim">
          {trans.__(
            'A lasting answer is kept by the agent: it will not ask again for what it counts as the same.'
          )}
        </div>
      )}
    </section>
  );
}
