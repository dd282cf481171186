import * as React from 'react';
import { messageOf } from '../errors';
import type { Command } from '../wire/session';
import { useEnvironment } from './environment';

/**
 * Where a person writes. Enter sends, Shift+Enter breaks a line, Up and Down walk earlier prompts with the draft kept,
 * Esc closes the list of commands. While a turn runs Send is Queue, with Stop beside it. A file that is pasted, dropped
 * or attached is kept in the project, and the text names it.
 */
export function Composer(props: {
  isRunning: boolean;
  isStopping: boolean;
  disabled: string | null;
  commands: readonly Command[];
  history: () => readonly string[];
}): JSX.Element {
  const { trans, chat } = useEnvironment();
  const { isRunning, isStopping, disabled, commands, history } = props;
  const [value, setValue] = React.useState(() => chat.draft);
  const [place, setPlace] = React.useState(0);
  const [chosen, setChosen] = React.useState(0);
  const [isClosed, setClosed] = React.useState(false);
  const [uploading, setUploading] = React.useState<string | null>(null);
  const kept = React.useRef('');
  const picker = React.useRef<HTMLInputElement>(null);
  const area = React.useRef<HTMLTextAreaElement>(null);

  const change = (text: string) => {
    setValue(text);
    setPlace(0);
    setChosen(0);
    setClosed(false);
    chat.draft = text;
  };
  const fit = () => {
    const node = area.current!;
    node.style.height = 'auto';
    node.style.height = `${Math.min(node.scrollHeight + 2, 240)}px`;
  };
  React.useLayoutEffect(fit, [value]);
  React.useLayoutEffect(() => {
    // it is drawn before it has its width, and the tab may become narrower
    let width = 0;
    const observer = new ResizeObserver(([entry]) => {
      if (entry && entry.contentRect.width !== width) {
        width = entry.contentRect.width;
        fit();
      }
    });
    observer.observe(area.current!);
    return () => observer.disconnect();
  }, []);

  const typed = /^\/(\S*)$/.exec(value)?.[1];
  const offered =
    typed === undefined || isClosed
      ? []
      : commands.filter(command => command.name.startsWith(typed)).slice(0, 8);

  const attach = async (files: FileList | null) => {
    if (!files || files.length === 0 || disabled !== null) {
      return;
    }
    setUploading(trans.__('Adding…'));
    try {
      const mentions = await chat.upload([...files]);
      // what was typed meanwhile stays
      const text = chat.draft;
      change(`${text}${text === '' || /\s$/.test(text) ? '' : ' '}${mentions} `);
      setUploading(null);
      area.current?.focus();
    } catch (error) {
      setUploading(messageOf(error));
    }
  };
  const submit = () => {
    const text = value.trim();
    if (text && disabled === null) {
      change('');
      void chat.send(text);
    }
  };
  const walk = (step: number): boolean => {
    const prompts = history();
    const next = place + step;
    if (next < 0 || next > prompts.length) {
      return false;
    }
    if (place === 0) {
      kept.current = value;
    }
    setPlace(next);
    setValue(next === 0 ? kept.current : prompts[prompts.length - next]!);
    return true;
  };
  const complete = (command: Command) => {
    change(`/${command.name} `);
    area.current?.focus();
  };
  const onKeyDown = (event: React.KeyboardEvent<HTMLTextAreaElement>) => {
    if (event.nativeEvent.isComposing) {
      return;
    }
    const node = event.currentTarget;
    const isFirstLine = !value.slice(0, node.selectionStart).includes('\n');
    const isLastLine = !value.slice(node.selectionEnd).includes('\n');
    const step = event.key === 'ArrowUp' ? -1 : event.key === 'ArrowDown' ? 1 : 0;
    let handled = true;
    if (offered.length > 0 && step !== 0) {
      setChosen((chosen + step + offered.length) % offered.length);
    } else if (
      offered.length > 0 &&
      (event.key === 'Tab' || (event.key === 'Enter' && offered[chosen]!.name !== typed))
    ) {
      // a command that is typed out is sent by Enter, as every other text
      complete(offered[chosen]!);
    } else if (event.key === 'Escape' && offered.length > 0) {
      setClosed(true);
    } else if (event.key === 'Enter' && !event.shiftKey) {
      submit();
    } else if (step === -1 && isFirstLine && (value === '' || place > 0)) {
      handled = walk(1);
    } else if (step === 1 && isLastLine && place > 0) {
      handled = walk(-1);
    } else {
      handled = false;
    }
    if (handled) {
      event.preventDefault();
      event.stopPropagation();
    }
  };
  return (
    <div className="jp-acp-composer">
      {offered.length > 0 && (
        <ul className="jp-acp-commands" role="listbox" aria-label={trans.__('Commands')}>
          {offered.map((command, index) => (
            <li
              key={command.name}
              role="option"
              aria-selected={index === chosen}
              onMouseDown={event => {
                event.preventDefault();
                complete(command);
              }}
            >
              <b>/{command.name}</b> <span className="jp-acp-dim">{command.description}</span>
            </li>
          ))}
        </ul>
      )}
      <textarea
        ref={area}
        className="jp-acp-input"
        rows={1}
        value={value}
        disabled={disabled !== null}
        placeholder={
          disabled ??
          (isRunning
            ? trans.__('Write what comes next; it waits until the agent is done')
            : trans.__('Ask the agent. Enter sends, Shift+Enter breaks the line'))
        }
        aria-label={trans.__('Message to the agent')}
        onChange={event => change(event.target.value)}
        onKeyDown={onKeyDown}
        onPaste={event => {
          if (event.clipboardData.files.length > 0) {
            event.preventDefault();
            void attach(event.clipboardData.files);
          }
        }}
        onDragOver={event => {
          if (event.dataTransfer.types.includes('Files')) {
            event.preventDefault();
          }
        }}
        onDrop={event => {
          if (event.dataTransfer.files.length > 0) {
            event.preventDefault();
            event.stopPropagation();
            void attach(event.dataTransfer.files);
          }
        }}
      />
      {uploading !== null && (
        <div className="jp-acp-dim" role="status">
          {uploading}
        </div>
      )}
      <input
        ref={picker}
        type="file"
        multiple
        hidden
        onChange={event => {
          void attach(event.target.files).then(() => (picker.current!.value = ''));
        }}
      />
      <div className="jp-acp-composer-buttons">
        <button
          className="jp-acp-button jp-acp-attach"
          disabled={disabled !== null}
          title={trans.__(
            'Add files to the project for the agent to read; pasting and dropping them does the same'
          )}
          onClick={() => picker.current?.click()}
        >
          {trans.__('Attach')}
        </button>
        {isRunning && chat.isCollaborator && (
          <button
            className="jp-acp-button jp-acp-stop"
            data-state={isStopping ? 'stopping' : 'running'}
            onClick={() => void chat.stop()}
          >
            {isStopping ? trans.__('Stopping…') : trans.__('Stop')}
          </button>
        )}
        <button
          className="jp-acp-button jp-acp-send"
          data-state={isRunning ? 'queue' : 'send'}
          disabled={disabled !== null || !value.trim()}
          onClick={submit}
        >
          {isRunning ? trans.__('Queue') : trans.__('Send')}
        </button>
      </div>
    </div>
  );
}
