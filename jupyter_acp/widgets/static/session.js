/**
 * One turn of an ACP session, live. It talks to the Jupyter server by itself (events by WebSocket, commands by fetch),
 * never through the kernel, which is busy for as long as the turn runs.
 *
 * One rule: what an agent wrote reaches the page as text nodes only. There is no innerHTML in this file.
 * Data's way: socket -> View.apply(event) -> the one element that the event is about.
 */

const TAIL = 4000; // characters of a command's output that a card shows before "Show all"
const RETRIES = [100, 200, 500, 1000, 2000, 5000, 10000, 30000];
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u115f\u1160\u2800\u3164\uffa0\ud800-\udfff]|(?![\u200d\ufe0f])[\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;
// eslint-disable-next-line no-control-regex
const ESCAPES = /\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g;

/** An element with properties and children; a string child becomes a text node. */
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) {
        element.addEventListener(event, listener);
      }
    } else if (name in element) {
      element[name] = value;
    } else {
      element.setAttribute(name, value);
    }
  }
  element.append(...children);
  return element;
}

/** `text` with what hides or reorders itself spelt out: what is approved must be what is read. */
export function visible(text) {
  const fragment = document.createDocumentFragment();
  let end = 0;
  for (const match of String(text).matchAll(HIDDEN)) {
    fragment.append(text.slice(end, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
    fragment.append(h('mark', { title: 'A character that cannot be seen' }, `⟨U+${code}⟩`));
    end = match.index + match[0].length;
  }
  fragment.append(String(text).slice(end));
  return fragment;
}

/** The address, if it is one that a person may be led to; else null. */
function webAddress(text) {
  try {
    const url = new URL(text);
    return ['http:', 'https:'].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(address, ...children) {
  return h('a', { href: address, target: '_blank', rel: 'noopener noreferrer', title: address }, ...children);
}

/** The part of Markdown that answers are made of, built as elements: code, headings, lists, emphasis, links. */
export function markdown(text) {
  const fragment = document.createDocumentFragment();
  let paragraph = null;
  let list = null;
  let code = null;
  for (const line of text.split('\n')) {
    if (code) {
      if (line.trim().startsWith(code.fence) && !line.trim().replaceAll(code.fence[0], '')) {
        code = null;
      } else {
        code.element.append(`${line}\n`);
      }
      continue;
    }
    const fence = /^\s*(`{3,}|~{3,})[^`]*$/.exec(line);
    const heading = /^(#{1,6})\s+(.*)/.exec(line);
    const item = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)/.exec(line);
    if (fence) {
      code = { fence: fence[1], element: h('code') };
      fragment.append(h('pre', {}, code.element));
      paragraph = list = null;
    } else if (!line.trim()) {
      paragraph = null;
    } else if (heading) {
      fragment.append(h(`h${heading[1].length}`, {}, inline(heading[2])));
      paragraph = list = null;
    } else if (item) {
      const tag = item[1] ? 'OL' : 'UL';
      if (list?.tagName !== tag) {
        list = h(tag, item[1] ? { start: Number(item[1]) } : {});
        fragment.append(list);
      }
      paragraph = h('li', {}, inline(item[2]));
      list.append(paragraph);
    } else if (paragraph) {
      paragraph.append('\n', inline(line));
    } else {
      paragraph = h('p', {}, inline(line));
      fragment.append(paragraph);
      list = null;
    }
  }
  return fragment;
}

function inline(text) {
  const fragment = document.createDocumentFragment();
  const pattern = /(`+)(.+?)\1(?!`)|\*\*(.+?)\*\*|\*([^\s*](?:.*?[^\s*])?)\*|\[([^\]]*)\]\(([^()\s]+)\)/g;
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    fragment.append(text.slice(end, match.index));
    end = match.index + match[0].length;
    const [whole, , code, strong, emphasis, label, target] = match;
    const address = target && webAddress(target);
    fragment.append(
      code
        ? h('code', {}, code.trim())
        : strong
          ? h('strong', {}, inline(strong))
          : emphasis
            ? h('em', {}, inline(emphasis))
            : address
              ? link(address, label || address)
              : whole
    );
  }
  fragment.append(text.slice(end));
  return fragment;
}

/** The coordinator's routes for one session, on the server that the page came from. */
class Server {
  constructor(model, signal) {
    const config = JSON.parse(document.getElementById('jupyter-config-data')?.textContent || '{}');
    const base = config.baseUrl || document.body.dataset.baseUrl || '/';
    const [project, session] = ['project', 'session'].map(name => encodeURIComponent(model.get(name)));
    this.url = new URL(`${base.replace(/\/?$/, '/')}api/acp/projects/${project}/sessions/${session}`, location.href);
    this.token = config.token;
    this.signal = signal;
  }

  async call(method, path, body) {
    const xsrf = /(?:^|; )_xsrf=([^;]*)/.exec(document.cookie)?.[1];
    const response = await fetch(`${this.url}/${path}`, {
      method,
      signal: this.signal,
      credentials: 'same-origin',
      headers: {
        ...(body ? { 'Content-Type': 'application/json' } : {}),
        ...(xsrf ? { 'X-XSRFToken': xsrf } : {}),
        ...(this.token ? { Authorization: `token ${this.token}` } : {})
      },
      body: body && JSON.stringify(body)
    });
    if (!response.ok) {
      const told = await response.json().catch(() => ({}));
      throw Object.assign(new Error(told.message || `The server answered ${response.status}.`), {
        status: response.status
      });
    }
  }

  /** Withdraw a turn that waits, interrupt one that runs. */
  async stop(turn) {
    try {
      await this.call('DELETE', `turns/${encodeURIComponent(turn)}`);
    } catch (error) {
      if (error.status !== 409) {
        throw error;
      }
      await this.call('POST', 'interrupt', { turn });
    }
  }

  /** Every event after `after`, each once, until the signal; a lost socket is taken up where it broke off. */
  follow(after, onEvents, onState) {
    let failures = 0;
    let timer = 0;
    let socket = null;
    const connect = () => {
      const url = new URL(`${this.url}/events/subscribe?after=${after}`);
      url.protocol = url.protocol.replace('http', 'ws');
      if (this.token) {
        url.searchParams.set('token', this.token);
      }
      socket = new WebSocket(url);
      socket.onmessage = ({ data }) => {
        failures = 0;
        const events = JSON.parse(data).filter(event => event.seq > after);
        if (events.length) {
          after = events[events.length - 1].seq;
          onEvents(events);
        }
      };
      socket.onopen = () => onState(true);
      socket.onclose = () => {
        if (!this.signal.aborted) {
          onState(false);
          timer = setTimeout(connect, RETRIES[Math.min(failures++, RETRIES.length - 1)]);
        }
      };
    };
    this.signal.addEventListener('abort', () => {
      clearTimeout(timer);
      socket?.close();
    });
    connect();
  }
}

/** Draws a turn: one element for each message, call, command and request, found again by its id. */
class View {
  constructor(root, server, turn, chat) {
    this.server = server;
    this.turn = turn;
    this.elements = new Map();
    this.connected = true;
    this.state = 'Waiting for its turn';
    this.ended = false;
    this.status = h('span', { className: 'jp-AcpSession-status', role: 'status' });
    this.stop = h('button', { type: 'button', on: { click: () => this.onStop() } }, 'Stop');
    this.error = h('div', { className: 'jp-AcpSession-card jp-AcpSession-error', hidden: true, role: 'alert' });
    // politely, and only what is added: a screen reader would read the whole answer again at every chunk
    this.log = h('div', { 'aria-live': 'polite', 'aria-relevant': 'additions', role: 'log', ariaLabel: 'Agent' });
    root.append(
      h('div', { className: 'jp-AcpSession-bar' }, h('strong', {}, chat), this.status, this.stop),
      this.log,
      this.error
    );
    this.draw();
  }

  draw() {
    this.status.textContent = this.connected || this.ended ? this.state : 'Connecting to the server again …';
    this.stop.hidden = this.ended;
  }

  setConnected(connected) {
    this.connected = connected;
    this.draw();
  }

  fail(error) {
    if (error.name !== 'AbortError') {
      this.error.replaceChildren(error.message);
      this.error.hidden = false;
    }
  }

  async onStop() {
    this.stop.disabled = true;
    this.state = 'Stopping …';
    this.draw();
    try {
      await this.server.stop(this.turn);
    } catch (error) {
      this.stop.disabled = false;
      this.fail(error);
    }
  }

  /** The element of `key`, made by `make` when the key is new. */
  element(key, make) {
    if (!this.elements.has(key)) {
      const made = make();
      this.elements.set(key, made);
      if (!made.isConnected) {
        this.log.append(made);
      }
    }
    return this.elements.get(key);
  }

  apply({ kind, turn, data }) {
    if (turn !== this.turn && data?.id !== this.turn) {
      return;
    }
    const draw = {
      turn_started: () => (this.state = 'Working …'),
      turn_ended: () => this.end(data),
      message_delta: () => data.role === 'agent' && this.text('message', data),
      message: () => data.role === 'agent' && !this.elements.has(`message ${data.message_id}`) && this.text('message', data),
      thought_delta: () => this.text('thought', data),
      tool_call: () => this.toolCall(data),
      terminal_output: () => this.output(data),
      terminal_exited: () => this.exited(data),
      plan: () => this.plan(data),
      permission_requested: () => this.permission(data),
      permission_resolved: () => this.resolved(data),
      notice: () => this.log.append(h('div', { className: 'jp-AcpSession-card' }, [data.title, data.description].filter(Boolean).join(': '))),
      unknown_update: () => this.log.append(fold('Something that this version does not know', h('pre', {}, visible(JSON.stringify(data, null, 2)))))
    }[kind];
    draw?.();
    this.draw();
  }

  /** Add to the text of a message or thought; in a new element where something else was shown in between. */
  text(what, { message_id, text }) {
    const key = `${what} ${message_id}`;
    if (this.elements.get(key) !== this.log.lastChild) {
      this.elements.delete(key);
      this.settle();
    }
    const element = this.element(key, () => {
      const body = h('div', { className: 'jp-AcpSession-text jp-AcpSession-streaming' });
      return what === 'thought' ? fold('Thinking', body) : body;
    });
    (what === 'thought' ? element.lastChild : element).append(text.replace(ESCAPES, ''));
  }

  // Markdown once, when a text is whole: to parse at every chunk would cost the square of its length
  settle() {
    for (const element of this.log.querySelectorAll(':scope > .jp-AcpSession-streaming')) {
      element.classList.remove('jp-AcpSession-streaming');
      element.replaceChildren(markdown(element.textContent));
    }
  }

  toolCall(call) {
    const card = this.element(`call ${call.toolCallId}`, () =>
      h('details', { className: 'jp-AcpSession-card' }, h('summary'), h('div'), h('div'))
    );
    card.dataset.status = call.status ?? '';
    card.children[0].replaceChildren(visible(call.title || call.toolCallId), ` — ${call.status ?? 'called'}`);
    card.children[1].replaceChildren(
      ...(call.locations ?? []).map(place => h('div', {}, h('code', {}, visible(place.path)))),
      ...details(call)
    );
    for (const part of call.content ?? []) {
      if (part.type === 'terminal') {
        card.open = true;
        card.children[2].append(this.terminal(part.terminalId));
      }
    }
  }

  terminal(id) {
    return this.element(`terminal ${id}`, () => {
      const pre = h('pre', { tabIndex: 0, ariaLabel: 'Output of the command' });
      const all = h('button', { type: 'button', hidden: true }, 'Show all');
      const element = h('div', {}, all, pre, h('div'));
      element.acp = { text: '', whole: false };
      all.addEventListener('click', () => {
        element.acp.whole = true;
        this.drawOutput(element);
      });
      return element;
    });
  }

  output({ terminal_id, data }) {
    const element = this.terminal(terminal_id);
    element.acp.text = (element.acp.text + data).slice(-(1 << 20));
    // a flood of output is drawn once a frame
    element.acp.frame ??= requestAnimationFrame(() => {
      element.acp.frame = undefined;
      this.drawOutput(element);
    });
  }

  drawOutput(element) {
    const { text, whole } = element.acp;
    element.children[0].hidden = whole || text.length <= TAIL;
    element.children[1].textContent = (whole ? text : text.slice(-TAIL)).replace(ESCAPES, '').replace(/\r\n?/g, '\n');
    element.children[1].scrollTop = element.children[1].scrollHeight;
  }

  exited({ terminal_id, exit_code, signal }) {
    const how = signal ? `ended by signal ${signal}` : exit_code ? `exit status ${exit_code}` : '';
    this.terminal(terminal_id).children[2].textContent = how;
  }

  plan({ entries }) {
    const marks = { completed: '☑', in_progress: '▶' };
    const list = this.element('plan', () => h('ul', { ariaLabel: 'Plan' }));
    list.replaceChildren(...entries.map(entry => h('li', {}, `${marks[entry.status] ?? '☐'} ${entry.content}`)));
  }

  permission(request) {
    this.state = 'Waiting for your answer';
    this.element(`permission ${request.id}`, () => permissionCard(request, body => this.answer(request.id, body)));
  }

  async answer(id, body) {
    const card = this.elements.get(`permission ${id}`);
    const controls = [...card.querySelectorAll('button, input, select')];
    controls.forEach(control => (control.disabled = true));
    try {
      await this.server.call('POST', `permissions/${encodeURIComponent(id)}`, body);
    } catch (error) {
      // 409: somebody was quicker; the log says who
      if (error.status !== 409) {
        controls.forEach(control => (control.disabled = false));
        this.fail(error);
      }
    }
  }

  resolved({ id, outcome, option_id, by }) {
    this.state = 'Working …';
    const card = this.elements.get(`permission ${id}`);
    if (card) {
      const name = card.acp.options.find(option => option.optionId === option_id)?.name ?? outcome;
      card.className = 'jp-AcpSession-card';
      card.querySelector('form').replaceWith(h('div', {}, visible(by ? `${name} (${by})` : name)));
    }
  }

  end({ stop_reason, error, elapsed_ms, changes }) {
    this.ended = true;
    this.settle();
    this.state = `${{ end_turn: 'Done', cancelled: 'Stopped' }[stop_reason] ?? stop_reason} in ${((elapsed_ms ?? 0) / 1000).toFixed(1)} s`;
    if (changes) {
      const { files, added, removed } = changes;
      this.state += ` · ${files} file${files === 1 ? '' : 's'} changed +${added} −${removed}`;
    }
    if (error) {
      this.fail(error);
    }
  }
}

function fold(title, body) {
  return h('details', { className: 'jp-AcpSession-card' }, h('summary', {}, title), body);
}

/** What a call is about to do or has done, whole. */
function details(call) {
  const { rawInput: input } = call;
  const fields = input && typeof input === 'object' && !Array.isArray(input) ? Object.entries(input) : [['input', input]];
  const shown = fields
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) =>
      h('div', {}, visible(name), h('pre', {}, visible(typeof value === 'string' ? value : JSON.stringify(value, null, 2))))
    );
  for (const part of call.content ?? []) {
    if (part.type === 'diff') {
      shown.push(h('div', {}, h('code', {}, visible(part.path)), h('pre', {}, ...diff(part))));
    } else if (part.type === 'content' && part.content?.type === 'text') {
      shown.push(h('pre', {}, visible(part.content.text.replace(ESCAPES, ''))));
    }
  }
  return shown;
}

function diff({ oldText, newText }) {
  const lines = (text, sign, className) =>
    (text ?? '') === '' ? [] : text.split('\n').map(line => h('div', { className }, visible(`${sign} ${line}`)));
  return [
    ...lines(oldText, '-', 'jp-AcpSession-removed'),
    ...lines(newText, '+', 'jp-AcpSession-added')
  ];
}

/** A question of the agent. `answer` gets the body of the answer to send. */
function permissionCard(request, answer) {
  const { elicitation, options } = request;
  const call = request.tool_call ?? {};
  const form = h('form', { className: 'jp-AcpSession-form' });
  const schema = elicitation?.mode === 'form' ? elicitation.requestedSchema : null;
  for (const [name, field] of Object.entries(schema?.properties ?? {})) {
    form.append(h('label', {}, visible(field.title || name), ' ', control(name, field, schema.required?.includes(name))));
  }
  const buttons = options.map(option => {
    const lasting = String(option.kind).endsWith('_always');
    const accept = String(option.kind).startsWith('allow');
    const submit = () => {
      if (schema && accept && !form.reportValidity()) {
        return;
      }
      answer({ option_id: option.optionId, ...(schema && accept ? { content: values(form, schema) } : {}) });
    };
    const label = lasting ? `${option.name} (lasting)` : option.name;
    return h('button', { type: 'button', on: { click: submit } }, visible(label));
  });
  form.addEventListener('submit', event => event.preventDefault());
  form.append(h('div', { className: 'jp-AcpSession-options' }, ...buttons));
  const address = elicitation?.mode === 'url' ? webAddress(elicitation.url) : null;
  const card = h(
    'div',
    { className: 'jp-AcpSession-permission', role: 'group', ariaLabel: 'The agent asks' },
    h('strong', {}, visible(elicitation?.message || call.title || 'The agent asks for permission')),
    ...(elicitation?.url ? [h('div', {}, address ? link(address, visible(elicitation.url)) : visible(elicitation.url))] : []),
    ...(call.locations ?? []).map(place => h('div', {}, h('code', {}, visible(place.path)))),
    ...details(call),
    form
  );
  card.acp = { options };
  return card;
}

function control(name, field, required = false) {
  if (field.enum || field.oneOf) {
    const choices = field.enum?.map((value, n) => [value, field.enumNames?.[n] ?? value]) ?? field.oneOf.map(o => [o.const, o.title]);
    const blank = required ? [] : [h('option', { value: '' }, '')];
    return h('select', { name, required }, ...blank, ...choices.map(([value, label]) => h('option', { value }, visible(label))));
  }
  if (field.type === 'boolean') {
    return h('input', { name, type: 'checkbox', checked: field.default === true });
  }
  const type = ['number', 'integer'].includes(field.type) ? 'number' : 'text';
  return h('input', { name, type, required, step: field.type === 'integer' ? '1' : 'any', value: field.default ?? '' });
}

function values(form, schema) {
  const content = {};
  for (const [name, { type }] of Object.entries(schema.properties)) {
    const input = form.elements.namedItem(name);
    if (type === 'boolean') {
      content[name] = input.checked;
    } else if (input.value !== '') {
      content[name] = ['number', 'integer'].includes(type) ? Number(input.value) : input.value;
    }
  }
  return content;
}

export default {
  render({ model, el }) {
    const lifetime = new AbortController();
    const root = h('div', { className: 'jp-AcpSession' });
    el.append(root);
    const server = new Server(model, lifetime.signal);
    const view = new View(root, server, model.get('turn'), model.get('chat'));
    server.follow(
      model.get('after'),
      events => {
        events.forEach(event => view.apply(event));
        if (view.ended) {
          lifetime.abort();
        }
      },
      connected => view.setConnected(connected)
    );
    return () => lifetime.abort();
  }
};
