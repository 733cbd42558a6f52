/* A PKCS#11 module that stands in front of another one and misbehaves on cue, for tests.
 *
 * It forwards each of the 68 functions of PKCS#11 v2.40 to the real module through one kind of trampoline, since all of
 * them take at most 8 arguments of machine-word size. What it does besides is ordered through a mapped file that lies
 * beside it, "<this file>.control": struct control below, little more than a table of rules. shim.py is its driver.
 *
 * Only C_GetFunctionList is exported, as by NSS and p11-kit. No PKCS#11 header is needed to build it:
 *   cc -shared -fPIC -O1 -fvisibility=hidden -Wl,-Bsymbolic -o shim.so shim.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);

enum { FUNCTIONS = 68, RULES = 16, FAMILIES = 3, PROCESSES = 256 };
enum { INITIALIZE = 0, FINALIZE = 1, GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6 };
enum { OPEN_SESSION = 12, CLOSE_SESSION = 13, CLOSE_ALL_SESSIONS = 14 };
enum { ANSWER = 1, LIE = 2, DELAY = 3, HANG = 4, CORRUPT = 5 };
enum { CKR_CRYPTOKI_NOT_INITIALIZED = 0x190 };

struct rule {              /* 64 bytes; active while action is not 0 and remaining is not 0 */
    uint32_t action;       /* ANSWER code without a call; call, then LIE code; DELAY; HANG; CORRUPT the output */
    uint32_t function;     /* its place in the function list */
    uint64_t code;         /* what ANSWER and LIE return */
    uint64_t delay_us;     /* how long DELAY waits before the call */
    int64_t skip;          /* calls that pass untouched first */
    int64_t remaining;     /* calls to act on; -1: all */
    uint32_t final_only;   /* only calls whose fourth argument, the output buffer of C_Sign and C_Decrypt, is not NULL */
    uint32_t match_first;  /* only calls whose first argument (a slot or a session) is `first` */
    uint64_t first;
    uint64_t unused;
};

struct process {           /* one that uses the module, and how many sessions it has open */
    uint64_t id;           /* 0: a free place */
    int64_t sessions;
};

struct control {
    char module[1024];            /* the real module's path */
    uint32_t private_lists;       /* a new function list with a state of its own at each C_GetFunctionList */
    uint32_t lists;               /* how many C_GetFunctionList gave */
    uint64_t token_flags;         /* set in every CK_TOKEN_INFO */
    uint64_t initialize_flags;    /* of the last C_Initialize; all bits set: its argument was NULL */
    char reserved[1024];          /* pReserved of the last C_Initialize */
    uint64_t inside;              /* calls inside now */
    uint64_t most_inside;         /* the most that ever were */
    uint64_t calls[FUNCTIONS];
    struct rule rules[RULES];
    struct process processes[PROCESSES];
};

struct list {
    unsigned char version[2];
    function functions[FUNCTIONS];
};

struct initialize_args {
    void *mutex_functions[4];
    word flags;
    const char *reserved;
};

static struct control *control;
static struct list *real;
static struct list lists[FAMILIES];
static int initialized[FAMILIES];

static int matches(struct rule *rule, int number, word first, word fourth)
{
    if (rule->action == 0 || rule->function != (uint32_t)number)
        return 0;
    if ((rule->final_only && fourth == 0) || (rule->match_first && rule->first != first))
        return 0;
    if (__atomic_load_n(&rule->skip, __ATOMIC_SEQ_CST) > 0 && __atomic_fetch_sub(&rule->skip, 1, __ATOMIC_SEQ_CST) > 0)
        return 0;
    if (rule->remaining < 0)
        return 1;
    if (__atomic_fetch_sub(&rule->remaining, 1, __ATOMIC_SEQ_CST) > 0)
        return 1;
    __atomic_store_n(&rule->remaining, 0, __ATOMIC_SEQ_CST);
    return 0;
}

static void note_initialize(word argument)
{
    const struct initialize_args *args = (const struct initialize_args *)argument;
    control->initialize_flags = args ? args->flags : UINT64_MAX;
    memset(control->reserved, 0, sizeof control->reserved);
    if (args && args->reserved)
        strncpy(control->reserved, args->reserved, sizeof control->reserved - 1);
}

static void note_inside(int64_t change)
{
    uint64_t now = __atomic_add_fetch(&control->inside, (uint64_t)change, __ATOMIC_SEQ_CST);
    uint64_t most = control->most_inside;
    while (change > 0 && now > most
           && !__atomic_compare_exchange_n(&control->most_inside, &most, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
}

static struct process *this_process(void)
{
    static struct process nobody;
    uint64_t id = (uint64_t)getpid();
    int i;

    for (i = 0; i < PROCESSES; i++) {
        uint64_t taken = 0;
        struct process *each = &control->processes[i];
        if (each->id == id
            || __atomic_compare_exchange_n(&each->id, &taken, id, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return each;
    }
    return &nobody;
}

static void note_sessions(int number)
{
    if (number == OPEN_SESSION)
        __atomic_fetch_add(&this_process()->sessions, 1, __ATOMIC_SEQ_CST);
    else if (number == CLOSE_SESSION)
        __atomic_fetch_sub(&this_process()->sessions, 1, __ATOMIC_SEQ_CST);
    else if (number == FINALIZE || number == CLOSE_ALL_SESSIONS)
        __atomic_store_n(&this_process()->sessions, 0, __ATOMIC_SEQ_CST);
}

static word call_real(int number, word *a, struct rule *rule)
{
    word code = real->functions[number](a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    if (code == 0)
        note_sessions(number);
    if (number == GET_TOKEN_INFO && code == 0)
        *(word *)(a[1] + 96) |= (word)control->token_flags; /* CK_TOKEN_INFO.flags, after 96 bytes of names */
    if (rule && rule->action == CORRUPT && code == 0 && a[3])
        *(unsigned char *)a[3] ^= 1;
    if (rule && rule->action == LIE)
        return (word)rule->code;
    return code;
}

static word forward(int family, int number, word *a)
{
    static const struct initialize_args for_threads = { .flags = 2 };
    word code;
    struct rule *rule = NULL;
    int i;

    __atomic_fetch_add(&control->calls[number], 1, __ATOMIC_SEQ_CST);
    if (control->private_lists && number > FINALIZE && number != GET_FUNCTION_LIST && !initialized[family])
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    if (number == INITIALIZE)
        note_initialize(a[0]);
    if (number == INITIALIZE && control->private_lists)
        a[0] = (word)&for_threads; /* as p11-kit does, whatever it was given itself */
    for (i = 0; i < RULES && !rule; i++)
        if (matches(&control->rules[i], number, a[0], a[3]))
            rule = &control->rules[i];
    if (rule && rule->action == ANSWER)
        return (word)rule->code;
    note_inside(1);
    if (rule && rule->action == DELAY)
        usleep((useconds_t)rule->delay_us);
    while (rule && rule->action == HANG) /* until the driver takes the rule away */
        usleep(2000);
    code = call_real(number, a, rule);
    note_inside(-1);
    if (code == 0 && number <= FINALIZE)
        initialized[family] = number == INITIALIZE;
    return code;
}

#define T(family, n)                                                                                       \
    static word f##family##_##n(word a, word b, word c, word d, word e, word f, word g, word h)            \
    {                                                                                                      \
        word arguments[] = { a, b, c, d, e, f, g, h };                                                     \
        return forward(family, n, arguments);                                                              \
    }
#define TEN(X, f, t)                                                                                       \
    X(f, t##0) X(f, t##1) X(f, t##2) X(f, t##3) X(f, t##4) X(f, t##5) X(f, t##6) X(f, t##7) X(f, t##8) X(f, t##9)
#define ALL(X, f)                                                                                          \
    X(f, 0) X(f, 1) X(f, 2) X(f, 3) X(f, 4) X(f, 5) X(f, 6) X(f, 7) X(f, 8) X(f, 9)                        \
    TEN(X, f, 1) TEN(X, f, 2) TEN(X, f, 3) TEN(X, f, 4) TEN(X, f, 5)                                       \
    X(f, 60) X(f, 61) X(f, 62) X(f, 63) X(f, 64) X(f, 65) X(f, 66) X(f, 67)
ALL(T, 0)
ALL(T, 1)
ALL(T, 2)

#define FILL(family, n) lists[family].functions[n] = f##family##_##n;

static int start(void)
{
    Dl_info self;
    char path[4096];
    int file;
    word (*get_list)(struct list **);
    void *handle;

    if (!dladdr((void *)start, &self))
        return 0;
    snprintf(path, sizeof path, "%s.control", self.dli_fname);
    file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return 0;
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (control == MAP_FAILED)
        return 0;
    handle = dlopen(control->module, RTLD_NOW | RTLD_LOCAL);
    get_list = handle ? (word (*)(struct list **))dlsym(handle, "C_GetFunctionList") : NULL;
    if (!get_list || get_list(&real) != 0)
        return 0;
    ALL(FILL, 0)
    ALL(FILL, 1)
    ALL(FILL, 2)
    for (file = 0; file < FAMILIES; file++)
        memcpy(lists[file].version, real->version, sizeof real->version);
    return 1;
}

__attribute__((visibility("default"))) word C_GetFunctionList(struct list **list)
{
    if (!real && !start())
        return 0x30; /* CKR_DEVICE_ERROR */
    *list = &lists[control->private_lists ? control->lists % FAMILIES : 0];
    control->lists++;
    return 0;
}
