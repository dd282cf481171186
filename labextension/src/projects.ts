/** The projects of a person, and the one whose chats are listed. Draws nothing; asks by what it is given. */

import { messageOf } from './errors';
import type { ProjectInfo } from './wire/projects';
import type { Summary } from './wire/session';

/** The project whose files are those that this Jupyter server serves. */
export const LOCAL = 'local';

export interface ProjectsApi {
  list(): Promise<readonly ProjectInfo[]>;
  /** As `list` has it, with the reason where it could not be started. */
  get(project: string): Promise<ProjectInfo>;
  sessions(project: string): Promise<readonly Summary[]>;
  start(project: string): Promise<void>;
  stop(project: string): Promise<void>;
}

/** What is kept over a reload: the project that was chosen last. */
export interface Memory {
  get(): string | null;
  set(project: string): void;
}

const INTERVAL = 5000;
/** While something is under way. */
const SHORT_INTERVAL = 1000;

export class Projects {
  constructor(
    private readonly api: ProjectsApi,
    private readonly memory: Memory,
    private readonly changed: () => void
  ) {
    this._chosen = memory.get() ?? LOCAL;
  }

  projects: readonly ProjectInfo[] = [];
  sessions: readonly Summary[] = [];
  failure: string | null = null;
  /** A project that was chosen, and is not there for this person any more. */
  lost: string | null = null;

  get chosen(): ProjectInfo | null {
    return this.projects.find(project => project.id === this._chosen) ?? null;
  }

  /** There is only the folder that Jupyter serves: nothing is said of projects. */
  get isSingle(): boolean {
    return this.projects.every(project => project.id === LOCAL) && this.lost === null;
  }

  /** Milliseconds until the next look. */
  get interval(): number {
    return this.chosen?.state === 'starting' ? SHORT_INTERVAL : INTERVAL;
  }

  async choose(project: string): Promise<void> {
    this._chosen = project;
    this.memory.set(project);
    this.lost = null;
    this.sessions = [];
    this.failure = null;
    this.changed();
    await this.refresh();
  }

  async refresh(): Promise<void> {
    try {
      this._take(await this.api.list());
      const { chosen } = this;
      if (chosen) {
        const [project, sessions] = await Promise.all([
          chosen.kind === 'container' ? this.api.get(chosen.id) : chosen,
          this.api.sessions(chosen.id)
        ]);
        if (this._chosen === chosen.id) {
          this.projects = this.projects.map(one => (one.id === chosen.id ? project : one));
          this.sessions = sessions;
          this.failure = null;
        }
      }
    } catch (error) {
      this.failure = messageOf(error);
    }
    this.changed();
  }

  start(): Promise<void> {
    return this._do(project => this.api.start(project));
  }

  stop(): Promise<void> {
    return this._do(project => this.api.stop(project));
  }

  private async _do(command: (project: string) => Promise<void>): Promise<void> {
    try {
      await command(this._chosen);
    } catch (error) {
      this.failure = messageOf(error);
      this.changed();
      return;
    }
    await this.refresh();
  }

  private _take(projects: readonly ProjectInfo[]): void {
    const before = this.chosen;
    this.projects = projects;
    if (!this.chosen) {
      this.lost = before?.name ?? this.lost;
      this._chosen = (projects.find(project => project.id === LOCAL) ?? projects[0])?.id ?? LOCAL;
      this.sessions = [];
    }
  }

  private _chosen: string;
}

/** A chat's file where nobody has named it: the moment, as Jupyter has no say there. */
export function newChatName(now: Date): string {
  const local = new Date(now.getTime() - now.getTimezoneOffset() * 60_000).toISOString();
  return `chat-${local.slice(0, 19).replace('T', '-').replaceAll(':', '')}.chat`;
}
