import * as React from 'react';
import type { AgentInfo } from '../wire/agents';
import type { Access, ConfigOption } from '../wire/session';
import { useEnvironment } from './environment';

interface Choice {
  readonly value: string;
  readonly name: string;
  readonly description: string;
  readonly isAvailable: boolean;
}

const SEARCHABLE_FROM = 8;

/** A button that opens a list, with a search field where the list is long. */
export function Picker(props: {
  id: string;
  label: string;
  value: string;
  /** What was chosen, where it does not hold yet. */
  next?: string;
  choices: readonly Choice[];
  disabled?: string | null;
  onChoose: (value: string) => void;
}): JSX.Element {
  const { trans } = useEnvironment();
  const { id, label, value, next = value, choices, disabled = null, onChoose } = props;
  const [isOpen, setOpen] = React.useState(false);
  const [search, setSearch] = React.useState('');
  const root = React.useRef<HTMLDivElement>(null);
  React.useEffect(() => {
    if (!isOpen) {
      return;
    }
    const outside = (event: Event) => {
      if (!root.current?.contains(event.target as Node)) {
        setOpen(false);
      }
    };
    document.addEventListener('pointerdown', outside, true);
    return () => document.removeEventListener('pointerdown', outside, true);
  }, [isOpen]);
  const name = (id: string) => choices.find(choice => choice.value === id)?.name ?? id;
  const words = search.toLowerCase();
  const shown = choices.filter(choice => choice.name.toLowerCase().includes(words));
  const choose = (choice: Choice) => {
    setOpen(false);
    setSearch('');
    if (choice.value !== next) {
      onChoose(choice.value);
    }
  };
  return (
    <div
      ref={root}
      className="jp-acp-picker"
      data-option-id={id}
      data-value={value}
      onKeyDown={event => {
        if (event.key === 'Escape' && isOpen) {
          setOpen(false);
          event.stopPropagation();
        }
      }}
    >
      <button
        className="jp-acp-picker-button"
        aria-haspopup="listbox"
        aria-expanded={isOpen}
        disabled={disabled !== null}
        title={disabled ?? label}
        onClick={() => setOpen(!isOpen)}
      >
        <span className="jp-acp-dim">{label}</span> {name(value)}
        {next !== value && ` → ${name(next)}`}
      </button>
      {isOpen && (
        <div className="jp-acp-popover">
          {choices.length >= SEARCHABLE_FROM && (
            <input
              autoFocus
              type="search"
              placeholder={trans.__('Search')}
              aria-label={trans.__('Search')}
              value={search}
              onChange={event => setSearch(event.target.value)}
              onKeyDown={event => event.key === 'Enter' && shown[0] && choose(shown[0])}
            />
          )}
          <ul role="listbox" aria-label={label}>
            {shown.map(choice => (
              <li key={choice.value} role="option" aria-selected={choice.value === next}>
                <button
                  disabled={!choice.isAvailable}
                  data-value={choice.value}
                  onClick={() => choose(choice)}
                >
                  <span>{choice.name}</span>
                  {choice.description && <small>{choice.description}</small>}
                </button>
              </li>
            ))}
          </ul>
        </div>
      )}
    </div>
  );
}

/** Which agent: free until the first message, the conversation's own afterwards. */
export const AgentPicker = React.memo(function AgentPicker(props: {
  agents: readonly AgentInfo[];
  agent: string;
  isFixed: boolean;
}) {
  const { trans, chat } = useEnvironment();
  const { agents, agent, isFixed } = props;
  return (
    <Picker
      id="agent"
      label={trans.__('Agent')}
      value={agent}
      choices={agents.map(one => ({
        value: one.id,
        name: one.name,
        description: one.available
          ? [one.version, one.description].filter(Boolean).join(' · ')
          : one.hint || trans.__('not installed'),
        isAvailable: one.available
      }))}
      disabled={isFixed ? trans.__('A new chat can talk with another agent') : null}
      onChoose={value => void chat.chooseAgent(value)}
    />
  );
});

/** What the agent may do, enforced by the server; what cannot be enforced here says why. */
export const AccessPicker = React.memo(function AccessPicker(props: {
  access: Access;
  disabled: string | null;
}) {
  const { trans, chat } = useEnvironment();
  const { access, disabled } = props;
  const names: { [id: string]: string } = {
    'full-access': trans.__('Full'),
    'workspace-write': trans.__('Workspace only'),
    'read-only': trans.__('Read only')
  };
  return (
    <Picker
      id="access"
      label={trans.__('Access')}
      value={access.effective}
      next={access.requested}
      choices={access.choices.map(choice => ({
        value: choice.id,
        name: names[choice.id] ?? choice.id,
        description: choice.isAvailable ? '' : choice.reason,
        isAvailable: choice.isAvailable
      }))}
      disabled={disabled}
      onChoose={value => void chat.setAccess(value)}
    />
  );
});

/** The agent's own options, each with the value that the agent reports. */
export const OptionPickers = React.memo(function OptionPickers(props: {
  options: readonly ConfigOption[];
  disabled: string | null;
}) {
  const { trans, chat } = useEnvironment();
  return (
    <>
      {props.options.map(option => {
        const isSwitch = option.type === 'boolean' || typeof option.value === 'boolean';
        const choices = isSwitch
          ? [
              { value: 'true', name: trans.__('on'), description: '', isAvailable: true },
              { value: 'false', name: trans.__('off'), description: '', isAvailable: true }
            ]
          : option.choices.map(choice => ({ ...choice, isAvailable: true }));
        return (
          <Picker
            key={option.id}
            id={option.id}
            label={option.name}
            value={String(option.value)}
            choices={choices}
            disabled={props.disabled}
            onChoose={value => void chat.setOption(option.id, isSwitch ? value === 'true' : value)}
          />
        );
      })}
    </>
  );
});
