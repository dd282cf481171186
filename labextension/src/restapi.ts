/** The routes of the server as functions. Every answer is narrowed by the modules of wire/. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type { Texts } from './editortexts';
import { RequestError } from './errors';
import { AgentInfo, agents } from './wire/agents';
import { TurnDiff, turnDiff } from './wire/changes';
import { AcpEvent, events } from './wire/events';
import { Json, object, text } from './wire/json';
import { MessagePage, messages } from './wire/messages';
import { ProjectInfo, project, projects, root } from './wire/projects';
import { Summary, summaries, summary } from './wire/session';

/** Where the requests go: a server, a project, and the signal that ends them. */
export interface Place {
  readonly settings: ServerConnection.ISettings;
  readonly project: string;
  readonly signal: AbortSignal;
}

function address(base: string, path: readonly string[]): string {
  return URLExt.join(base, 'api/acp', ...path.map(encodeURIComponent));
}

async function request(
  settings: ServerConnection.ISettings,
  path: readonly string[],
  init: RequestInit & { query?: { [key: string]: string } } = {}
): Promise<unknown> {
  const { query, ...rest } = init;
  const url = address(settings.baseUrl, path) + (query ? URLExt.objectToQueryString(query) : '');
  const response = await ServerConnection.makeRequest(url, rest, settings).catch(error => {
    // browsers say 'Failed to fetch', or something else that tells a person nothing
    throw error instanceof ServerConnection.NetworkError
      ? new Error('the Jupyter server does not answer', { cause: error })
      : error;
  });
  const body = await response.text();
  let answer: unknown = null;
  try {
    answer = body ? JSON.parse(body) : null;
  } catch (error) {
    if (response.ok) {
      throw error;
    }
  }
  if (!response.ok) {
    const error = object(answer);
    throw new RequestError(
      response.status,
      text(error.message) || `${response.status} ${response.statusText}`,
      text(error.reason)
    );
  }
  return answer;
}

function send(
  place: Place,
  method: string,
  path: readonly string[],
  body?: object
): Promise<unknown> {
  return request(place.settings, ['projects', place.project, ...path], {
    method,
    signal: place.signal,
    ...(body ? { body: JSON.stringify(body) } : {})
  });
}

export async function getRoot(
  settings: ServerConnection.ISettings
): Promise<ReturnType<typeof root>> {
  return root(await request(settings, []));
}

export async function listProjects(
  settings: ServerConnection.ISettings,
  signal: AbortSignal
): Promise<ProjectInfo[]> {
  return projects(await request(settings, ['projects'], { signal }));
}

export async function getProject(place: Place): Promise<ProjectInfo> {
  return project(await send(place, 'GET', []));
}

export async function startProject(place: Place): Promise<void> {
  await send(place, 'POST', ['start'], {});
}

export async function stopProject(place: Place): Promise<void> {
  await send(place, 'POST', ['stop'], {});
}

/** What the project's own server has written last. */
export async function getProjectLog(place: Place): Promise<string> {
  return text(object(await send(place, 'GET', ['logs'])).text);
}

export async function listAgents(place: Place): Promise<AgentInfo[]> {
  return agents(await send(place, 'GET', ['agents']));
}

export async function listSessions(place: Place): Promise<Summary[]> {
  return summaries(await send(place, 'GET', ['sessions']));
}

export async function openSession(place: Place, path: string, agent?: string): Promise<Summary> {
  return summary(await send(place, 'POST', ['sessions'], agent ? { path, agent } : { path }));
}

export async function getSession(place: Place, id: string): Promise<Summary> {
  return summary(await send(place, 'GET', ['sessions', id]));
}

export async function configure(
  place: Place,
  id: string,
  config: { [option: string]: string | boolean }
): Promise<void> {
  await send(place, 'PATCH', ['sessions', id], { config });
}

export async function closeSession(place: Place, id: string): Promise<void> {
  await send(place, 'DELETE', ['sessions', id]);
}

export async function submitTurn(
  place: Place,
  session: string,
  id: string,
  prompt: string
): Promise<void> {
  await send(place, 'POST', ['sessions', session, 'turns'], { id, prompt });
}

/** Keep a file inside the project for a prompt; the address at which the agent finds it. */
export async function upload(place: Place, session: string, file: File): Promise<string> {
  const path = ['projects', place.project, 'sessions', session, 'uploads'];
  const answer = await request(place.settings, path, {
    method: 'POST',
    body: file,
    query: { name: file.name },
    signal: place.signal
  });
  return text(object(answer).uri);
}

export async function editTurn(
  place: Place,
  session: string,
  id: string,
  prompt: string
): Promise<void> {
  await send(place, 'PATCH', ['sessions', session, 'turns', id], { prompt });
}

export async function withdrawTurn(place: Place, session: string, id: string): Promise<void> {
  await send(place, 'DELETE', ['sessions', session, 'turns', id]);
}

export async function sendNow(place: Place, session: string, id: string): Promise<void> {
  await send(place, 'POST', ['sessions', session, 'turns', id, 'send-now'], {});
}

export async function interrupt(place: Place, session: string, turn: string): Promise<void> {
  await send(place, 'POST', ['sessions', session, 'interrupt'], { turn });
}

export async function answer(
  place: Place,
  session: string,
  request: string,
  option: string,
  content?: Json
): Promise<void> {
  const body = content ? { option_id: option, content } : { option_id: option };
  await send(place, 'POST', ['sessions', session, 'permissions', request], body);
}

export async function restartAgent(place: Place, session: string): Promise<void> {
  await send(place, 'POST', ['sessions', session, 'restart-agent'], {});
}

export async function startOver(place: Place, session: string): Promise<void> {
  await send(place, 'POST', ['sessions', session, 'start-over'], {});
}

export async function editMessage(
  place: Place,
  session: string,
  message: string,
  text: string
): Promise<void> {
  await send(place, 'PATCH', ['sessions', session, 'messages', message], { text });
}

export async function setAccess(place: Place, id: string, access: string): Promise<void> {
  await send(place, 'PATCH', ['sessions', id], { access });
}

export async function react(
  place: Place,
  session: string,
  message: string,
  name: string,
  on: boolean
): Promise<void> {
  const path = ['sessions', session, 'messages', message, 'reactions', name];
  await send(place, on ? 'PUT' : 'DELETE', path);
}

export async function deleteMessage(place: Place, session: string, message: string): Promise<void> {
  await send(place, 'DELETE', ['sessions', session, 'messages', message]);
}

export async function getMessages(
  place: Place,
  session: string,
  before?: string
): Promise<MessagePage> {
  const page = await request(
    place.settings,
    ['projects', place.project, 'sessions', session, 'messages'],
    {
      signal: place.signal,
      query: before ? { before, limit: '50' } : { limit: '50' }
    }
  );
  return messages(page);
}

/** The whole log of one turn. */
export async function getActivity(
  place: Place,
  session: string,
  turn: string
): Promise<AcpEvent[]> {
  const path = ['projects', place.project, 'sessions', session, 'turns', turn, 'activity'];
  const all: AcpEvent[] = [];
  for (;;) {
    const query = { after: String(all[all.length - 1]?.seq ?? 0), limit: '5000' };
    const page = events(await request(place.settings, path, { signal: place.signal, query }));
    all.push(...page);
    if (page.length < 5000) {
      return all;
    }
  }
}

/** What a turn has changed, of one that runs up to now. */
export async function getDiff(place: Place, session: string, turn: string): Promise<TurnDiff> {
  return turnDiff(await send(place, 'GET', ['sessions', session, 'turns', turn, 'diff']));
}

/** Bring files back to what they were before the turn, all of them or none. */
export async function revert(
  place: Place,
  session: string,
  turn: string,
  paths: readonly string[]
): Promise<void> {
  await send(place, 'POST', ['sessions', session, 'turns', turn, 'revert'], { paths });
}

/** What this client's editors show and have not saved, by path, in place of what it offered before. */
export async function offerTexts(
  place: Place,
  session: string,
  client: string,
  texts: Texts
): Promise<void> {
  await send(place, 'PUT', ['sessions', session, 'editor-texts'], { client, texts });
}

/** Remove the log of every turn that has ended. */
export async function discardActivity(place: Place, session: string): Promise<void> {
  await send(place, 'DELETE', ['sessions', session, 'activity']);
}

export function exportUrl(place: Place, session: string): string {
  const path = ['projects', place.project, 'sessions', session, 'export'];
  return `${address(place.settings.baseUrl, path)}?format=markdown`;
}

/** The socket of a session's log; what `client` offers is kept while it is open. */
export function subscribe(place: Place, session: string, after: number, client: string): WebSocket {
  const { settings, project } = place;
  const path = ['projects', project, 'sessions', session, 'events', 'subscribe'];
  const query = new URLSearchParams({ after: String(after), client });
  if (settings.appendToken && settings.token) {
    query.set('token', settings.token);
  }
  const url = `${address(settings.wsUrl, path)}?${query.toString()}`;
  return new settings.WebSocket(url);
}
