/** Types of what web/vendor/preact.js exports and the pages use. */
export type Child = any;
export type Ref<T> = { current: T };
export interface Signal<T> { value: T; peek(): T; subscribe(run: (value: T) => void): () => void }
export interface ReadonlySignal<T> { readonly value: T; peek(): T }
export function h(type: any, props?: any, ...children: any[]): Child;
export function html(strings: TemplateStringsArray, ...values: any[]): Child;
export function render(what: Child, into: Element): void;
export const Fragment: any;
export function createContext<T>(initial: T): any;
export function useState<T>(initial: T | (() => T)): [T, (next: T | ((before: T) => T)) => void];
export function useReducer<S, A>(reduce: (state: S, action: A) => S, initial: S): [S, (action: A) => void];
export function useEffect(run: () => void | (() => void), keys?: readonly unknown[]): void;
export function useLayoutEffect(run: () => void | (() => void), keys?: readonly unknown[]): void;
export function useRef<T>(initial: T): Ref<T>;
export function useMemo<T>(make: () => T, keys: readonly unknown[]): T;
export function useCallback<F extends (...args: any[]) => any>(run: F, keys: readonly unknown[]): F;
export function useContext<T>(context: any): T;
export function useId(): string;
export function signal<T>(value: T): Signal<T>;
export function computed<T>(make: () => T): ReadonlySignal<T>;
export function effect(run: () => void | (() => void)): () => void;
export function batch<T>(run: () => T): T;
export function untracked<T>(run: () => T): T;
export function useSignal<T>(value: T): Signal<T>;
export function useComputed<T>(make: () => T): ReadonlySignal<T>;
export function useSignalEffect(run: () => void | (() => void)): void;
