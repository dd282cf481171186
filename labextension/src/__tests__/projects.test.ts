import * as assert from 'node:assert/strict';
import { test } from 'node:test';
import { ProjectInfo, projects as narrow } from '../wire/projects';
import { summary } from '../wire/session';
import { newChatName, Projects } from '../projects';

function project(id: string, given: Partial<ProjectInfo> = {}): ProjectInfo {
  const rest = { name: id.toUpperCase(), state: 'running', role: 'owner', kind: 'container' };
  return { id, ...rest, error: null, warning: null, usage: null, ...given };
}

const LOCAL = project('local', { kind: 'local' });

/** A server with these projects, and what was asked of it. */
function server(known: ProjectInfo[], remembered: string | null = null) {
  const asked: string[] = [];
  let kept = remembered;
  let drawn = 0;
  const api = {
    list: async () => known.map(one => ({ ...one, error: null })),
    get: async (id: string) => {
      asked.push(`get ${id}`);
      return known.find(one => one.id === id)!;
    },
    sessions: async (id: string) => {
      asked.push(`sessions ${id}`);
      return [summary({ id: `of ${id}` })];
    },
    start: async (id: string) => {
      asked.push(`start ${id}`);
    },
    stop: async (id: string) => {
      asked.push(`stop ${id}`);
      throw new Error('it cannot be stopped now');
    }
  };
  const memory = { get: () => kept, set: (id: string) => void (kept = id) };
  const projects = new Projects(api, memory, () => drawn++);
  return { projects, asked, known, kept: () => kept, drawn: () => drawn };
}

test('where there is only the folder of Jupyter its chats are listed and nothing is said of projects', async () => {
  const { projects, asked, drawn } = server([LOCAL]);
  await projects.refresh();
  assert.equal(projects.isSingle, true);
  assert.deepEqual(
    projects.sessions.map(one => one.id),
    ['of local']
  );
  assert.deepEqual(asked, ['sessions local']);
  assert.ok(drawn() > 0);
});

test('of several the chosen one is listed, also after a reload, and says why it failed', async () => {
  const failed = project('b', { state: 'failed', error: 'no such image' });
  const first = server([LOCAL, project('a'), failed]);
  await first.projects.refresh();
  assert.equal(first.projects.isSingle, false);
  assert.equal(first.projects.chosen?.id, 'local');
  await first.projects.choose('b');
  assert.equal(first.projects.chosen?.error, 'no such image');
  assert.deepEqual(
    first.projects.sessions.map(one => one.id),
    ['of b']
  );
  const second = server([LOCAL, project('a'), failed], first.kept());
  await second.projects.refresh();
  assert.equal(second.projects.chosen?.id, 'b');
});

test('one project that is not the folder of Jupyter is named', async () => {
  const { projects } = server([project('a')]);
  await projects.refresh();
  assert.equal(projects.isSingle, false);
  assert.equal(projects.chosen?.id, 'a');
});

test('a project that the person is no member of any more is said to be lost, once another is shown', async () => {
  const { projects, known } = server([LOCAL, project('a')], 'a');
  await projects.refresh();
  known.pop();
  await projects.refresh();
  assert.equal(projects.lost, 'A');
  assert.equal(projects.chosen?.id, 'local');
  assert.equal(projects.isSingle, false);
  assert.deepEqual(
    projects.sessions.map(one => one.id),
    ['of local']
  );
  await projects.choose('local');
  assert.equal(projects.lost, null);
});

test('what comes of a project that was left meanwhile is not shown', async () => {
  const { projects } = server([LOCAL, project('a')]);
  await projects.refresh();
  const looking = projects.refresh();
  await projects.choose('a');
  await looking;
  assert.deepEqual(
    projects.sessions.map(one => one.id),
    ['of a']
  );
});

test('it is looked at sooner while it starts; what is refused is said', async () => {
  const { projects, asked, known } = server([LOCAL, project('a', { state: 'stopped' })], 'a');
  await projects.refresh();
  assert.equal(projects.interval, 5000);
  known[1] = project('a', { state: 'starting' });
  await projects.start();
  assert.ok(asked.includes('start a'));
  assert.equal(projects.interval, 1000);
  await projects.stop();
  assert.equal(projects.failure, 'it cannot be stopped now');
});

test('what a server says of projects is narrowed', () => {
  const usage = { tokens_today: 12, token_limit: 100 };
  const wire = [
    { id: 'a', kind: 'container', state: 'failed', error: 'x', warning: 'y', usage },
    { id: 'b', state: null },
    7
  ];
  assert.deepEqual(narrow(wire), [
    {
      id: 'a',
      name: 'a',
      state: 'failed',
      role: 'viewer',
      kind: 'container',
      error: 'x',
      warning: 'y',
      usage: { today: 12, limit: 100 }
    },
    {
      id: 'b',
      name: 'b',
      state: 'running',
      role: 'viewer',
      kind: 'local',
      error: null,
      warning: null,
      usage: null
    }
  ]);
});

test('a chat that nobody has named is named by the moment', () => {
  assert.match(newChatName(new Date()), /^chat-\d{4}-\d\d-\d\d-\d{6}\.chat$/);
});
