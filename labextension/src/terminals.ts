/** Commands of an agent that run in a terminal of Jupyter, in tabs of JupyterLab. */

/** What is used of JupyterLab's manager of terminals. */
export interface Terminals {
  isAvailable(): boolean;
  refreshRunning(): Promise<void>;
  running(): Iterator<{ readonly name: string }>;
}

/** What is used of JupyterLab's commands. */
export interface Commands {
  hasCommand(id: string): boolean;
  execute(id: string, args: { name: string }): Promise<unknown>;
}

/** What `terminal:open` opens. */
interface Opened {
  readonly content?: { setOption?(name: 'closeOnExit', value: boolean): void };
}

const OPEN = 'terminal:open';

export class TerminalTabs {
  constructor(
    private readonly terminals: Terminals,
    private readonly commands: Commands
  ) {}

  /** Whether it runs, and JupyterLab has terminals to show it in. */
  async canOpen(name: string): Promise<boolean> {
    if (!this.terminals.isAvailable() || !this.commands.hasCommand(OPEN)) {
      return false;
    }
    try {
      await this.terminals.refreshRunning();
    } catch {
      return false;
    }
    const running = this.terminals.running();
    for (let next = running.next(); !next.done; next = running.next()) {
      if (next.value.name === name) {
        return true;
      }
    }
    return false;
  }

  /** Open its tab, or show the one that it has. False where it has ended: JupyterLab would start a shell of that name. */
  async open(name: string): Promise<boolean> {
    if (!(await this.canOpen(name))) {
      return false;
    }
    const tab = (await this.commands.execute(OPEN, { name })) as Opened | undefined;
    // its last words are there to be read, also when it is no longer listed
    tab?.content?.setOption?.('closeOnExit', false);
    return true;
  }
}
