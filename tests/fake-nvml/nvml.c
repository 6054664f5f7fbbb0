/* Stands in for libnvidia-ml.so.1 where there is no card: the part of its interface that the daemon calls.
 *
 * What it answers is read anew at each call from the file beside it, called like the library with ".answers" behind: lines of
 * a key and a value. A card or instance that has no line for a question does not support it. Keys begin with the card
 * ("0.") or with card and instance ("0.mig1."):
 *
 *     init 0              what opening returns; left out, 0
 *     hang 1              opening waits while this is 1
 *     cards 2             number of cards
 *     0.uuid GPU-a        name
 *     0.result 15         what every question to the card returns instead of an answer
 *     0.hang 1            questions wait while this is 1
 *     0.processes 7:100,8:200          compute processes and their bytes
 *     0.samples 7:1000:30,7:2000:50    samples of processes: id, time in microseconds, percent
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
enum { CARDS = 8, INSTANCES = 8, TEXT = 512 };

typedef struct { int card, instance; } Device;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned long long reference, violation; } Violation;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned pid; unsigned long long time; unsigned sm, memory, encoder, decoder; } Sample;
typedef struct { unsigned version, is_supported; } GpmSupport;
typedef struct { unsigned id; int result; double value; char *short_name, *long_name, *unit; } GpmMetric;
typedef struct { unsigned version, count; void *first, *second; GpmMetric metrics[210]; } GpmRequest;

static Device devices[CARDS][INSTANCES + 1];

static int look_up(const char *key, char *value) {
    Dl_info own;
    char path[4096], line[2 * TEXT];
    int found = 0;
    if (!dladdr((void *)look_up, &own)) return 0;
    snprintf(path, sizeof path, "%s.answers", own.dli_fname);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    size_t length = strlen(key);
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            snprintf(value, TEXT, "%s", line + length + 1);
            value[strcspn(value, "\n")] = 0;
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static long long number(const char *key, long long otherwise) {
    char value[TEXT];
    return look_up(key, value) ? atoll(value) : otherwise;
}

static int look_up_of(const Device *device, const char *name, char *value) {
    char key[TEXT];
    if (device->instance) snprintf(key, sizeof key, "%d.mig%d.%s", device->card, device->instance - 1, name);
    else snprintf(key, sizeof key, "%d.%s", device->card, name);
    return look_up(key, value);
}

/* Every question to a card comes through here first. */
static int text_of(const Device *device, const char *name, char *value) {
    char key[TEXT];
    snprintf(key, sizeof key, "%d.hang", device->card);
    while (number(key, 0)) usleep(2000);
    snprintf(key, sizeof key, "%d.result", device->card);
    long long result = number(key, 0);
    if (result) return (int)result;
    return look_up_of(device, name, value) ? SUCCESS : NOT_SUPPORTED;
}

static int number_of(const Device *device, const char *name, unsigned long long *value) {
    char text[TEXT];
    int result = text_of(device, name, text);
    if (result == SUCCESS) *value = strtoull(text, NULL, 10);
    return result;
}

static int small_of(const Device *device, const char *name, unsigned *value) {
    unsigned long long wide;
    int result = number_of(device, name, &wide);
    if (result == SUCCESS) *value = (unsigned)wide;
    return result;
}

int nvmlInit_v2(void) {
    while (number("hang", 0)) usleep(2000);
    return (int)number("init", 0);
}
int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "550.0");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)number("cards", 0);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    char key[TEXT];
    if (index >= CARDS || index >= number("cards", 0)) return INVALID;
    snprintf(key, sizeof key, "%u.result", index);
    long long result = number(key, 0);
    *device = &devices[index][0];
    (*device)->card = (int)index;
    return (int)result;
}

int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned length) {
    char value[TEXT];
    if (!look_up_of(device, "uuid", value)) return NOT_SUPPORTED;
    snprintf(uuid, length, "%s", value);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    int result = small_of(device, "utilization", &rates->gpu);
    return result ? result : small_of(device, "memory_busy", &rates->memory);
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory *memory) {
    if (memory->version != (sizeof *memory | 2u << 24)) return 25;
    int result = number_of(device, "total", &memory->total);
    return result ? result : number_of(device, "used", &memory->used);
}

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *value) {
    return sensor == 0 ? small_of(device, "temperature", value) : INVALID;
}
int nvmlDeviceGetPowerUsage(Device *device, unsigned *value) { return small_of(device, "milliwatts", value); }
int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *value) { return small_of(device, "limit_milliwatts", value); }
int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *value) {
    return number_of(device, "millijoules", value);
}
int nvmlDeviceGetClockInfo(Device *device, unsigned kind, unsigned *value) {
    return small_of(device, kind == 2 ? "memory_megahertz" : kind == 1 ? "megahertz" : "none", value);
}
int nvmlDeviceGetViolationStatus(Device *device, unsigned policy, Violation *violation) {
    char name[TEXT];
    snprintf(name, sizeof name, "violation%u", policy);
    return number_of(device, name, &violation->violation);
}
int nvmlDeviceGetTotalEccErrors(Device *device, unsigned kind, unsigned counter, unsigned long long *value) {
    return counter ? INVALID : number_of(device, kind ? "uncorrected" : "corrected", value);
}

static int processes_of(Device *device, const char *name, unsigned *room, Process *list) {
    char value[TEXT];
    int result = text_of(device, name, value);
    unsigned count = 0;
    if (result == NOT_SUPPORTED) value[0] = 0;
    else if (result) return result;
    for (char *rest = NULL, *entry = strtok_r(value, ",", &rest); entry; entry = strtok_r(NULL, ",", &rest), count++) {
        if (count >= *room || !list) continue;
        char *colon = strchr(entry, ':');
        list[count] = (Process){(unsigned)atoi(entry), colon ? strtoull(colon + 1, NULL, 10) : ~0ull, ~0u, ~0u};
    }
    int fits = count <= *room && (list || !count);
    *room = count;
    return fits ? SUCCESS : TOO_SMALL;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *room, Process *list) {
    return processes_of(device, "processes", room, list);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *room, Process *list) {
    return processes_of(device, "drawing", room, list);
}

int nvmlDeviceGetProcessUtilization(Device *device, Sample *list, unsigned *room, unsigned long long since) {
    char value[TEXT];
    int result = text_of(device, "samples", value);
    unsigned count = 0;
    if (result) return result;
    for (char *rest = NULL, *entry = strtok_r(value, ",", &rest); entry; entry = strtok_r(NULL, ",", &rest)) {
        unsigned pid, percent;
        unsigned long long time;
        if (sscanf(entry, "%u:%llu:%u", &pid, &time, &percent) != 3 || time <= since) continue;
        if (list && count < *room) list[count] = (Sample){pid, time, percent, 0, 0, 0};
        count++;
    }
    if (!count) return NOT_FOUND;
    int fits = list && count <= *room;
    *room = count;
    return fits ? SUCCESS : TOO_SMALL;
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    int result = small_of(device, "mig", current);
    *pending = *current;
    return result;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) {
    (void)device;
    *count = 7;
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **instance) {
    char value[TEXT];
    if (index >= INSTANCES) return INVALID;
    *instance = &devices[device->card][index + 1];
    **instance = (Device){device->card, (int)index + 1};
    return look_up_of(*instance, "uuid", value) ? SUCCESS : NOT_FOUND;
}

/* A sample of the counters is the number of the card it was taken of. */
int nvmlGpmQueryDeviceSupport(Device *device, GpmSupport *support) {
    return small_of(device, "gpm", &support->is_supported);
}
int nvmlGpmSampleAlloc(void **sample) { return (*sample = calloc(1, sizeof(int))) ? SUCCESS : 20; }
int nvmlGpmSampleFree(void *sample) {
    free(sample);
    return SUCCESS;
}
int nvmlGpmSampleGet(Device *device, void *sample) {
    unsigned is_supported;
    *(int *)sample = device->card;
    return small_of(device, "gpm", &is_supported);
}
int nvmlGpmMetricsGet(GpmRequest *request) {
    if (request->first == request->second || *(int *)request->first != *(int *)request->second) return INVALID;
    Device device = {*(int *)request->second, 0};
    for (unsigned i = 0; i < request->count; i++) {
        GpmMetric *metric = &request->metrics[i];
        char name[TEXT], value[TEXT];
        snprintf(name, sizeof name, "gpm%u", metric->id);
        metric->result = text_of(&device, name, value);
        if (metric->result == SUCCESS) metric->value = atof(value);
    }
    return SUCCESS;
}
