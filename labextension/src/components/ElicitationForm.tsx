import * as React from 'react';
import { Json, object, text } from '../wire/json';
import { Revealed } from './Revealed';

interface Field {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly type: string;
  readonly format: string;
  readonly isRequired: boolean;
  readonly choices: readonly { value: string; title: string }[];
  readonly isMultiple: boolean;
  readonly initial: unknown;
}

function choicesOf(schema: Json): { value: string; title: string }[] {
  const titled = schema.oneOf ?? schema.anyOf;
  if (Array.isArray(titled)) {
    return titled.map(item => {
      const raw = object(item);
      return { value: text(raw.const), title: text(raw.title) || text(raw.const) };
    });
  }
  const names = Array.isArray(schema.enumNames) ? schema.enumNames : [];
  return Array.isArray(schema.enum)
    ? schema.enum.map((value, index) => ({
        value: text(value),
        title: text(names[index]) || text(value)
      }))
    : [];
}

/** The fields of the flat object schema that an agent may ask for. */
function fields(schema: Json): Field[] {
  const required = Array.isArray(schema.required) ? schema.required : [];
  return Object.entries(object(schema.properties)).map(([name, value]) => {
    const raw = object(value);
    const isMultiple = raw.type === 'array';
    return {
      name,
      title: text(raw.title) || name,
      description: text(raw.description),
      type: text(raw.type),
      format: text(raw.format),
      isRequired: required.includes(name),
      choices: choicesOf(isMultiple ? object(raw.items) : raw),
      isMultiple,
      initial: raw.default
    };
  });
}

const INPUT_TYPES: { [format: string]: string } = {
  email: 'email',
  uri: 'url',
  date: 'date'
};

/** A form made from an agent's schema. What is left empty is left out. */
export function ElicitationForm(props: {
  schema: Json;
  disabled: boolean;
  accept: string;
  onAccept: (content: Json) => void;
  children: React.ReactNode;
}): JSX.Element {
  const asked = React.useMemo(() => fields(props.schema), [props.schema]);
  const [values, setValues] = React.useState<Json>(() =>
    Object.fromEntries(asked.map(field => [field.name, field.initial]))
  );
  const set = (name: string, value: unknown) => setValues({ ...values, [name]: value });

  const control = (field: Field): JSX.Element => {
    const value = values[field.name];
    if (field.type === 'boolean') {
      return (
        <input
          type="checkbox"
          checked={value === true}
          onChange={event => set(field.name, event.target.checked)}
        />
      );
    }
    if (field.choices.length > 0) {
      return (
        <select
          multiple={field.isMultiple}
          required={field.isRequired}
          value={field.isMultiple ? (Array.isArray(value) ? value.map(text) : []) : text(value)}
          onChange={event =>
            set(
              field.name,
              field.isMultiple
                ? Array.from(event.target.selectedOptions, option => option.value)
                : event.target.value
            )
          }
        >
          {!field.isMultiple && <option value="" />}
          {field.choices.map(choice => (
            <option key={choice.value} value={choice.value}>
              {choice.title}
            </option>
          ))}
        </select>
      );
    }
    const isNumber = field.type === 'number' || field.type === 'integer';
    return (
      <input
        type={isNumber ? 'number' : (INPUT_TYPES[field.format] ?? 'text')}
        step={field.type === 'integer' ? 1 : 'any'}
        required={field.isRequired}
        value={text(value)}
        onChange={event =>
          set(
            field.name,
            isNumber && event.target.value !== '' ? event.target.valueAsNumber : event.target.value
          )
        }
      />
    );
  };
  return (
    <form
      className="jp-acp-form"
      onSubmit={event => {
        event.preventDefault();
        const given = Object.entries(values).filter(
          ([, value]) => value !== undefined && value !== ''
        );
        props.onAccept(Object.fromEntries(given));
      }}
    >
      {asked.map(field => (
        <label key={field.name} data-field={field.name}>
          <span>
            <Revealed text={field.title} />
            {field.isRequired && ' *'}
          </span>
          {control(field)}
          {field.description && (
            <span className="jp-acp-dim">
              <Revealed text={field.description} />
            </span>
          )}
        </label>
      ))}
      <div className="jp-acp-options">
        <button
          type="submit"
          className="jp-acp-button jp-acp-option"
          data-kind="allow_once"
          disabled={props.disabled}
        >
          {props.accept}
        </button>
        {props.children}
      </div>
    </form>
  );
}
